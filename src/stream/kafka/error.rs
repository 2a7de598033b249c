//! Which error means what to the loop.
//!
//! librdkafka sorts transaction errors into retriable, abortable and fatal, and says that anything with none of these
//! marks is fatal. Errors of other calls carry only a code: what the cluster may heal by itself is retried.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::stream::{Disposition, LogError};

/// A log error without a librdkafka error behind it.
pub(super) fn log_error(action: impl Into<String>, message: impl Into<String>, disposition: Disposition) -> LogError {
    LogError { action: action.into(), message: message.into(), disposition }
}

/// A fatal log error.
pub(super) fn fatal(action: impl Into<String>, message: impl Into<String>) -> LogError {
    log_error(action, message, Disposition::Fatal)
}

/// The class of an error of a transaction call.
pub(super) fn transaction_disposition(error: &KafkaError) -> Disposition {
    match error {
        KafkaError::Transaction(error) if error.is_fatal() => Disposition::Fatal,
        KafkaError::Transaction(error) if error.txn_requires_abort() => Disposition::Abort,
        KafkaError::Transaction(error) if error.is_retriable() => Disposition::Retry,
        // `commit_transaction` of rdkafka flushes first: a timeout inside it comes out as a flush error.
        KafkaError::Flush(Code::OperationTimedOut) => Disposition::Retry,
        _ => Disposition::Fatal,
    }
}

/// The class of an error of any other call.
pub(super) fn request_disposition(error: &KafkaError) -> Disposition {
    match error.rdkafka_error_code() {
        Some(code) if heals_by_itself(code) => Disposition::Retry,
        _ => Disposition::Fatal,
    }
}

/// The class of a record that could not be delivered: most are delivered by the next attempt, but what the brokers will
/// never take must not be tried for ever.
pub(super) fn delivery_disposition(code: Code) -> Disposition {
    match code {
        Code::MessageSizeTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => Disposition::Fatal,
        _ => Disposition::Abort,
    }
}

/// Wraps an error of a call that is not part of a transaction.
pub(super) fn request_error(action: impl Into<String>, error: &KafkaError) -> LogError {
    log_error(action, explain(error), request_disposition(error))
}

/// Codes that the cluster (or librdkafka's own reconnecting) may heal without us.
pub(super) fn heals_by_itself(code: Code) -> bool {
    matches!(
        code,
        Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::DestroyBroker
            | Code::Resolve
            | Code::WaitingForCoordinator
            | Code::WaitCache
            | Code::InProgress
            | Code::PreviousInProgress
            | Code::Outdated
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::BrokerNotAvailable
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::RebalanceInProgress
            | Code::ConcurrentTransactions
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::UnstableOffsetCommit
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::NotController
    )
}

/// Codes by which a producer learns that its epoch is an old one.
pub(super) fn means_fenced(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}

/// The error that a client's report means: a refused certificate is reported as a broken connection when the connection ends
/// before the client has looked at why.
pub(super) fn reported(error: KafkaError, reason: &str) -> KafkaError {
    let is_broken = error.rdkafka_error_code() == Some(Code::BrokerTransportFailure);
    if is_broken && reason.contains("certificate verify failed") { KafkaError::Global(Code::SSL) } else { error }
}

/// The error's text, with what to do where there is something to do.
pub(super) fn explain(error: &KafkaError) -> String {
    let Some(code) = error.rdkafka_error_code() else {
        return error.to_string();
    };
    let advice = match code {
        code if means_fenced(code) => {
            "a newer process uses the same transactional id; give every live instance its own `instance`"
        }
        Code::FencedInstanceId => {
            "a newer process uses the same group instance id; give every live instance its own `instance`"
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            "a topic or partition is missing; `undercurrent topics create` makes the topics"
        }
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => "the brokers' access rules refuse this user",
        Code::Authentication | Code::SaslAuthenticationFailed => "the brokers refuse user name or password",
        Code::SSL => {
            "the TLS handshake failed; look at the certificate's authority, host name and dates \
             (`openssl s_client -connect HOST:PORT` names which)"
        }
        Code::AutoOffsetReset | Code::OffsetOutOfRange => {
            "retention has removed the records at the position to read from"
        }
        Code::MessageSizeTooLarge => {
            "an output is larger than the topic's `max.message.bytes` or the client's `message.max.bytes`"
        }
        Code::InvalidTransactionTimeout => "`transaction_ms` is above the brokers' `transaction.max.timeout.ms`",
        _ => return error.to_string(),
    };
    format!("{error}: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: &KafkaError, expected: Disposition) {
        assert_eq!(request_disposition(error), expected, "{error}");
    }

    #[test]
    fn unknown_means_fatal() {
        check(&KafkaError::MetadataFetch(Code::AllBrokersDown), Disposition::Retry);
        check(&KafkaError::OffsetFetch(Code::UnstableOffsetCommit), Disposition::Retry);
        check(&KafkaError::MessageConsumption(Code::TopicAuthorizationFailed), Disposition::Fatal);
        check(&KafkaError::MessageConsumption(Code::Unknown), Disposition::Fatal);
        check(&KafkaError::Canceled, Disposition::Fatal);
    }

    #[test]
    fn a_flush_that_times_out_inside_a_commit_is_retried() {
        assert_eq!(transaction_disposition(&KafkaError::Flush(Code::OperationTimedOut)), Disposition::Retry);
        assert_eq!(transaction_disposition(&KafkaError::Flush(Code::Fatal)), Disposition::Fatal);
    }

    #[test]
    fn what_the_brokers_never_take_is_not_tried_for_ever() {
        for code in [Code::MessageSizeTooLarge, Code::TopicAuthorizationFailed] {
            assert_eq!(delivery_disposition(code), Disposition::Fatal, "{code:?}");
        }
        for code in [Code::MessageTimedOut, Code::NotEnoughReplicas, Code::PurgeQueue] {
            assert_eq!(delivery_disposition(code), Disposition::Abort, "{code:?}");
        }
    }

    #[test]
    fn a_refused_certificate_is_no_broken_connection() {
        let broken = || KafkaError::Global(Code::BrokerTransportFailure);
        let refused = reported(broken(), "sasl_ssl://b:1: error:0A000086:SSL routines::certificate verify failed");
        assert!(refused == KafkaError::Global(Code::SSL) && explain(&refused).contains("dates"));
        assert_eq!(reported(broken(), "b:1: Disconnected"), broken());
    }

    #[test]
    fn advice_names_the_setting() {
        assert!(explain(&KafkaError::Global(Code::FencedInstanceId)).contains("`instance`"));
        assert!(explain(&KafkaError::MetadataFetch(Code::UnknownTopicOrPartition)).contains("topics create"));
    }
}
