//! From the sender's event names to ours.

use std::collections::HashMap;

use super::{EventKind, TextHashBuilder};

/// The names of Segment (and RudderStack), GA4 and Snowplow, and our own.
const BUILT_IN: [(&str, EventKind); 41] = [
    ("view", EventKind::View),
    ("Product Viewed", EventKind::View),
    ("Product Clicked", EventKind::View),
    ("view_item", EventKind::View),
    ("select_item", EventKind::View),
    ("product_view", EventKind::View),
    ("list_click", EventKind::View),
    ("search", EventKind::Search),
    ("Products Searched", EventKind::Search),
    ("site_search", EventKind::Search),
    ("cart_add", EventKind::CartAdd),
    ("Product Added", EventKind::CartAdd),
    ("add_to_cart", EventKind::CartAdd),
    ("cart_remove", EventKind::CartRemove),
    ("Product Removed", EventKind::CartRemove),
    ("remove_from_cart", EventKind::CartRemove),
    ("purchase", EventKind::Purchase),
    ("Order Completed", EventKind::Purchase),
    ("transaction", EventKind::Purchase),
    // Seen in a list, checkout begun, money back: actions, but neither interest in one product nor a purchase.
    ("other", EventKind::Other),
    ("list_view", EventKind::Other),
    ("Product List Viewed", EventKind::Other),
    ("view_item_list", EventKind::Other),
    ("checkout", EventKind::Other),
    ("Checkout Started", EventKind::Other),
    ("begin_checkout", EventKind::Other),
    ("checkout_step", EventKind::Other),
    ("refund", EventKind::Other),
    ("Order Refunded", EventKind::Other),
    // Further names of the same specifications.
    ("Cart Viewed", EventKind::Other),
    ("view_cart", EventKind::Other),
    ("Product List Filtered", EventKind::Other),
    ("Checkout Step Viewed", EventKind::Other),
    ("Checkout Step Completed", EventKind::Other),
    ("Payment Info Entered", EventKind::Other),
    ("add_payment_info", EventKind::Other),
    ("add_shipping_info", EventKind::Other),
    ("Order Cancelled", EventKind::Other),
    ("Product Added to Wishlist", EventKind::Other),
    ("add_to_wishlist", EventKind::Other),
    ("view_search_results", EventKind::Search),
];

/// What becomes of an event whose name is neither built in nor configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownName {
    /// It is rejected as `unknown_event`.
    #[default]
    Reject,
    /// It is folded as this kind.
    Kind(EventKind),
}

/// Maps the sender's event names to kinds: ours, Segment's, GA4's and Snowplow's are built in; the configuration adds to
/// them and overrides them (`clickout = "view"`).
#[derive(Debug, Clone)]
pub struct EventMapping {
    names: HashMap<Box<str>, EventKind, TextHashBuilder>,
    unknown: UnknownName,
}

impl Default for EventMapping {
    fn default() -> Self {
        let names = BUILT_IN.into_iter().map(|(name, kind)| (Box::from(name), kind)).collect();
        Self { names, unknown: UnknownName::Reject }
    }
}

impl EventMapping {
    /// The built-in names; `unknown` says what becomes of others.
    pub fn new(unknown: UnknownName) -> Self {
        Self { unknown, ..Self::default() }
    }

    /// Maps `name` to `kind`, whatever it was before.
    pub fn set(&mut self, name: &str, kind: EventKind) {
        self.names.insert(Box::from(name), kind);
    }

    /// This mapping with `name` mapped to `kind`.
    #[must_use]
    pub fn with(mut self, name: &str, kind: EventKind) -> Self {
        self.set(name, kind);
        self
    }

    /// The kind `name` is mapped to, unknown names left aside.
    pub fn known(&self, name: &str) -> Option<EventKind> {
        self.names.get(name).copied()
    }

    /// What becomes of unknown names.
    pub fn unknown(&self) -> UnknownName {
        self.unknown
    }

    /// All mapped names in alphabetical order.
    pub fn names(&self) -> Vec<(&str, EventKind)> {
        let mut names: Vec<_> = self.names.iter().map(|(name, kind)| (&**name, *kind)).collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_names_are_distinct_and_hold_ours() {
        let mapping = EventMapping::default();
        assert_eq!(mapping.names().len(), BUILT_IN.len());
        for kind in EventKind::ALL {
            assert_eq!(mapping.known(kind.name()), Some(kind));
        }
    }

    #[test]
    fn configured_names_override() {
        let mapping = EventMapping::default().with("clickout", EventKind::View).with("refund", EventKind::CartRemove);
        assert_eq!(mapping.known("clickout"), Some(EventKind::View));
        assert_eq!(mapping.known("refund"), Some(EventKind::CartRemove));
        assert_eq!(mapping.known("Product viewed"), None);
    }
}
