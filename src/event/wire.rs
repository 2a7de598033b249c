//! The wire form: one JSON object, ours or a Segment `track` call, read in one pass without copying its texts.
//!
//! The usual record is read the short way (`scan`), all others here.
//!
//! Fields are taken as they were written ([`Scalar`]); what they mean is decided by the [`Decoder`](super::Decoder).
//! Unknown fields are skipped without recursion, so nesting costs time bounded by the record's length and no stack.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use smallvec::SmallVec;

use super::{
    clean::{Reason, Reject},
    scan,
};

/// One field as it was written.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Scalar<'a> {
    /// Not there, or `null`.
    #[default]
    Absent,
    /// A text.
    Text(Cow<'a, str>),
    /// A whole number.
    Signed(i64),
    /// A whole number above `i64::MAX`.
    Unsigned(u64),
    /// Any other number.
    Float(f64),
    /// A boolean, list or object.
    Other(&'static str),
}

/// One product as it was written.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct WireLine<'a> {
    pub(crate) item: Scalar<'a>,
    pub(crate) category: Scalar<'a>,
    pub(crate) price: Scalar<'a>,
    pub(crate) quantity: Scalar<'a>,
}

impl WireLine<'_> {
    pub(super) fn is_empty(&self) -> bool {
        [&self.item, &self.category, &self.price, &self.quantity].into_iter().all(|field| *field == Scalar::Absent)
    }
}

/// One event as it was written.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Wire<'a> {
    pub(crate) event_id: Scalar<'a>,
    pub(crate) event: Scalar<'a>,
    /// `type` of a Segment call.
    pub(crate) call: Scalar<'a>,
    pub(crate) user: Scalar<'a>,
    pub(crate) anonymous: Scalar<'a>,
    pub(crate) session: Scalar<'a>,
    pub(crate) time: Scalar<'a>,
    pub(crate) query: Scalar<'a>,
    pub(crate) order: Scalar<'a>,
    pub(crate) revenue: Scalar<'a>,
    /// The product whose fields stand beside the event's own, if there is one.
    pub(crate) flat: WireLine<'a>,
    /// The list of products.
    pub(crate) products: SmallVec<[WireLine<'a>; 1]>,
}

impl<'a> Wire<'a> {
    /// Reads one JSON object.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Reject> {
        let mut wire = Self::default();
        wire.read(text)?;
        Ok(wire)
    }

    /// The same into a fresh `self`: half a kilobyte that need not move.
    #[inline]
    pub(super) fn read(&mut self, text: &'a str) -> Result<(), Reject> {
        if scan::parse(text, self).is_none() {
            *self = Self::parse_any(text)?;
        }
        Ok(())
    }

    /// Where the value of `field` goes; `None` for one that is no scalar.
    #[inline]
    pub(super) fn scalar_of(&mut self, field: Field) -> Option<&mut Scalar<'a>> {
        Some(match field {
            Field::EventId => &mut self.event_id,
            Field::Event => &mut self.event,
            Field::Call => &mut self.call,
            Field::User => &mut self.user,
            Field::Anonymous => &mut self.anonymous,
            Field::Session => &mut self.session,
            Field::Time => &mut self.time,
            Field::Query => &mut self.query,
            Field::Order => &mut self.order,
            Field::Revenue => &mut self.revenue,
            Field::Item => &mut self.flat.item,
            Field::Category => &mut self.flat.category,
            Field::Price => &mut self.flat.price,
            Field::Quantity => &mut self.flat.quantity,
            Field::Products | Field::Properties | Field::Context | Field::Unknown => return None,
        })
    }

    /// Reads one JSON object the general way.
    pub(super) fn parse_any(text: &'a str) -> Result<Self, Reject> {
        let mut wire = Self::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        deserializer
            .deserialize_any(Fields { wire: &mut wire, scope: Scope::Top })
            .and_then(|()| deserializer.end())
            .map_err(|error| reject_of(&error, text))?;
        Ok(wire)
    }

    /// The product lines: the list if there is one, else the product beside the event's own fields, if any.
    pub(crate) fn lines(&self) -> &[WireLine<'a>] {
        if !self.products.is_empty() {
            &self.products
        } else if self.flat.is_empty() {
            &[]
        } else {
            std::slice::from_ref(&self.flat)
        }
    }
}

const NOT_AN_OBJECT: &str = "a record must be one JSON object";

fn reject_of(error: &serde_json::Error, text: &str) -> Reject {
    let message = error.to_string();
    if message.starts_with(NOT_AN_OBJECT) {
        return Reject::new(Reason::NotAnObject, "record", NOT_AN_OBJECT);
    }
    if message.starts_with("number out of range") {
        return Reject::new(Reason::NonFiniteNumber, "record", message);
    }
    // JSON has no word for these, but senders write them: say what is wrong rather than 'expected value'.
    let rest =
        text.lines().nth(error.line().saturating_sub(1)).and_then(|line| line.get(error.column().saturating_sub(1)..));
    if rest.is_some_and(|rest| ["NaN", "Inf", "-Inf", "nan", "inf", "-inf"].iter().any(|word| rest.starts_with(word)))
        || (message.starts_with("invalid number") && rest.is_some_and(|rest| rest.starts_with(['I', 'i'])))
    {
        return Reject::new(Reason::NonFiniteNumber, "record", message);
    }
    let reason = if error.is_data() { Reason::WrongType } else { Reason::InvalidJson };
    Reject::new(reason, "record", message)
}

/// Where in the document an object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The record itself.
    Top,
    /// `properties` of a `track` call.
    Properties,
    /// `context` of a `track` call.
    Context,
}

/// A field name we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    EventId,
    Event,
    Call,
    User,
    Anonymous,
    Session,
    Time,
    Query,
    Order,
    Revenue,
    Item,
    Category,
    Price,
    Quantity,
    Products,
    Properties,
    Context,
    Unknown,
}

impl Field {
    /// The meaning of a name. Sorted by length first: the compiler then compares words and calls nothing.
    pub(super) fn of(scope: Scope, name: &[u8]) -> Self {
        let field = match name.len() {
            4 if name == b"type" => Self::Call,
            5 if name == b"event" => Self::Event,
            6 if name == b"userId" => Self::User,
            7 => match name {
                b"user_id" => Self::User,
                b"context" => Self::Context,
                b"revenue" => Self::Revenue,
                b"orderId" => Self::Order,
                _ => Self::of_list(name),
            },
            8 => match name {
                b"event_id" => Self::EventId,
                b"order_id" => Self::Order,
                _ => Self::of_list(name),
            },
            9 => match name {
                b"timestamp" => Self::Time,
                b"sessionId" => Self::Session,
                b"messageId" => Self::EventId,
                _ => Self::of_product(name),
            },
            10 => match name {
                b"session_id" => Self::Session,
                b"properties" => Self::Properties,
                b"message_id" => Self::EventId,
                _ => Self::of_product(name),
            },
            11 if name == b"anonymousId" => Self::Anonymous,
            11 if name == b"search_term" => Self::Query,
            12 if name == b"anonymous_id" => Self::Anonymous,
            14 if name == b"transaction_id" => Self::Order,
            _ => Self::of_list(name),
        };
        let is_known = match scope {
            Scope::Top => true,
            Scope::Properties => !matches!(
                field,
                Self::EventId
                    | Self::Event
                    | Self::Call
                    | Self::User
                    | Self::Anonymous
                    | Self::Time
                    | Self::Properties
                    | Self::Context
            ),
            Scope::Context => field == Self::Session,
        };
        if is_known { field } else { Self::Unknown }
    }

    fn of_list(name: &[u8]) -> Self {
        match name.len() {
            5 if name == b"query" => Self::Query,
            5 if name == b"items" => Self::Products,
            8 if name == b"products" => Self::Products,
            _ => Self::of_product(name),
        }
    }

    pub(super) fn of_product(name: &[u8]) -> Self {
        match name.len() {
            5 if name == b"price" => Self::Price,
            7 if name == b"item_id" => Self::Item,
            8 if name == b"quantity" => Self::Quantity,
            8 if name == b"category" => Self::Category,
            9 if name == b"productId" => Self::Item,
            10 if name == b"product_id" => Self::Item,
            13 if name == b"item_category" => Self::Category,
            _ => Self::Unknown,
        }
    }
}

/// Turns a field name into a [`Field`] without keeping the name.
struct FieldName<F>(F);

impl<'de, F: Fn(&[u8]) -> Field> DeserializeSeed<'de> for FieldName<F> {
    type Value = Field;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<F: Fn(&[u8]) -> Field> Visitor<'_> for FieldName<F> {
    type Value = Field;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok((self.0)(name.as_bytes()))
    }
}

/// Reads the fields of one object into the wire form.
struct Fields<'w, 'a> {
    wire: &'w mut Wire<'a>,
    scope: Scope,
}

impl<'de> DeserializeSeed<'de> for Fields<'_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { wire, scope } = self;
        while let Some(field) = map.next_key_seed(FieldName(|name: &[u8]| Field::of(scope, name)))? {
            if let Some(place) = wire.scalar_of(field) {
                *place = map.next_value_seed(ScalarSeed)?;
                continue;
            }
            match field {
                Field::Products => wire.products = map.next_value_seed(Products)?,
                Field::Properties => map.next_value_seed(Fields { wire, scope: Scope::Properties })?,
                Field::Context => map.next_value_seed(Fields { wire, scope: Scope::Context })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    /// `"properties": null` is as good as none.
    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if self.scope == Scope::Top { Err(E::custom(NOT_AN_OBJECT)) } else { Ok(()) }
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Err(self.refuse())
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        Err(self.refuse())
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        Err(self.refuse())
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(self.refuse())
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(self.refuse())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.refuse())
    }
}

impl Fields<'_, '_> {
    fn refuse<E: serde::de::Error>(&self) -> E {
        match self.scope {
            Scope::Top => E::custom(NOT_AN_OBJECT),
            Scope::Properties => E::custom("`properties` must be an object"),
            Scope::Context => E::custom("`context` must be an object"),
        }
    }
}

/// Reads one scalar; lists and objects are skipped and remembered as such.
struct ScalarSeed;

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Scalar<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Signed(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar<'de>, E> {
        Ok(i64::try_from(number).map_or(Scalar::Unsigned(number), Scalar::Signed))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Float(number))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Other("a boolean"))
    }

    fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Absent)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("an object"))
    }
}

/// Reads the list of products.
struct Products;

impl<'de> DeserializeSeed<'de> for Products {
    type Value = SmallVec<[WireLine<'de>; 1]>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Products {
    type Value = SmallVec<[WireLine<'de>; 1]>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of products")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut lines = SmallVec::new();
        while let Some(line) = list.next_element_seed(ProductSeed)? {
            lines.push(line);
        }
        Ok(lines)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(SmallVec::new())
    }
}

/// Reads one product.
struct ProductSeed;

impl<'de> DeserializeSeed<'de> for ProductSeed {
    type Value = WireLine<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<WireLine<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ProductSeed {
    type Value = WireLine<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a product object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireLine<'de>, A::Error> {
        let mut line = WireLine::default();
        while let Some(field) = map.next_key_seed(FieldName(Field::of_product))? {
            let place = match field {
                Field::Item => &mut line.item,
                Field::Category => &mut line.category,
                Field::Price => &mut line.price,
                Field::Quantity => &mut line.quantity,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *place = map.next_value_seed(ScalarSeed)?;
        }
        if line.is_empty() {
            return Err(A::Error::custom("a product needs an id, a category, a price or a quantity"));
        }
        Ok(line)
    }
}
