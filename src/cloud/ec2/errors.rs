//! What EC2's refusals mean (spec 42 §5, §9): their class for the pool, how long a rate limit holds, and whether another subnet may
//! help. Pure tables: the driver keeps one [`Backoff`] for creates and one for lists.

use std::time::Duration;

use super::query::QueryError;
use crate::cloud::CloudError;
use crate::core::pool::limits::CapacityScope;
use crate::core::time::Moment;

/// What the caller must do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    RateLimit,
    Quota,
    Capacity(CapacityScope),
    /// Everything else, also all that is no answer of the service.
    Other,
}

/// The throttle list of AWS's SDK for Go (§9, row 1).
const RATE_LIMIT_CODES: [&str; 14] = [
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottledException",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "TransactionInProgressException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "RequestThrottled",
    "SlowDown",
    "PriorRequestNotComplete",
    "EC2ThrottledException",
];

const QUOTA_CODES: [&str; 5] = [
    "InstanceLimitExceeded",
    "InsufficientAddressCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientVolumeCapacity",
    "MaxSpotInstanceCountExceeded",
];

/// The first row of §9 that fits.
pub fn classify(error: &QueryError) -> Class {
    let QueryError::Api { code, message, .. } = error else {
        return Class::Other;
    };
    match code.as_str() {
        code if RATE_LIMIT_CODES.contains(&code) => Class::RateLimit,
        code if QUOTA_CODES.contains(&code) => Class::Quota,
        "VcpuLimitExceeded" => Class::Capacity(CapacityScope::Group),
        "InsufficientInstanceCapacity" => Class::Capacity(CapacityScope::Type),
        "Unsupported" if message.contains("requested instance type") => Class::Capacity(CapacityScope::Type),
        _ => Class::Other,
    }
}

/// Whether the same create may succeed in another subnet (§5). Nothing that happened on the way to the service is such an error.
pub fn is_subnet_specific(error: &QueryError) -> bool {
    let QueryError::Api { code, message, .. } = error else {
        return false;
    };
    // A subnet is in one availability zone, and capacity is of a zone.
    let by_code = code.contains("Subnet")
        || ["InsufficientInstanceCapacity", "InsufficientVolumeCapacity", "Unsupported"].contains(&code.as_str());
    // AWS reports that a subnet's addresses are used up under several codes.
    by_code || code.contains("InvalidParameter") && (message.contains(" subnet ") || lacks_addresses(message))
}

/// The text has `sufficient free [Ii]pv[46] addresses`, that is also "insufficient" and "aren't sufficient".
fn lacks_addresses(message: &str) -> bool {
    ["Ipv4", "ipv4", "Ipv6", "ipv6"].iter().any(|kind| message.contains(&format!("sufficient free {kind} addresses")))
}

const DELAY_MIN: Duration = Duration::from_secs(1);
const DELAY_MAX: Duration = Duration::from_secs(60);

/// When a call was made, and when its answer came.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub began: Moment,
    pub ended: Moment,
}

/// For how long calls of one kind rest after a rate limit; longer each time until one gets through.
#[derive(Debug, Default)]
pub struct Backoff {
    delay: Duration,
    /// When the delay grew last.
    grown_at: Option<Moment>,
}

impl Backoff {
    /// The service limits the rate: no call for the returned time. Calls that were under way together were refused for one reason and
    /// count as one: else a burst of ten would rest for as long as ten in a row.
    pub fn throttled(&mut self, call: Span) -> Duration {
        if self.grown_at.is_none_or(|grown| call.began >= grown) {
            self.delay = (self.delay * 3 / 2 + Duration::from_secs(1)).clamp(DELAY_MIN, DELAY_MAX);
            self.grown_at = Some(call.ended);
        }
        self.delay
    }

    /// A call has succeeded, or failed for a reason that is no limit: the service listens to us.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Classifies the error of a call of this kind. Quota and lack of capacity leave the delay as it is (§9).
    pub fn classify(&mut self, error: QueryError, call: Span) -> CloudError {
        let class = classify(&error);
        match class {
            Class::RateLimit => CloudError::RateLimit { message: error.to_string(), retry_after: self.throttled(call) },
            Class::Quota => CloudError::Quota { message: error.to_string() },
            Class::Capacity(scope) => CloudError::Capacity { message: error.to_string(), scope },
            Class::Other => {
                self.reset();
                unclassified(error)
            }
        }
    }
}

/// The error of a call whose refusals have no class (set tags, destroy, keys).
pub fn unclassified(error: QueryError) -> CloudError {
    match error {
        QueryError::Other { message, source } => CloudError::Other { message, source },
        refused @ QueryError::Api { .. } => CloudError::Other { message: refused.to_string(), source: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: &str, message: &str) -> QueryError {
        QueryError::Api { status: 400, code: code.into(), message: message.into(), request_id: "r".into() }
    }

    fn span(began: u64, ended: u64) -> Span {
        let moment = |seconds| Moment::since_start(Duration::from_secs(seconds));
        Span { began: moment(began), ended: moment(ended) }
    }

    const NOT_IN_ZONE: &str = "Your requested instance type (t3.micro) is not supported in your requested Availability \
                               Zone (us-east-1e). Please retry your request by not specifying an Availability Zone.";

    #[test]
    fn classes_by_code_and_message() {
        let of_type = Class::Capacity(CapacityScope::Type);
        for (code, message, expected) in [
            ("InstanceLimitExceeded", "", Class::Quota),
            ("InsufficientAddressCapacity", "", Class::Quota),
            ("InsufficientFreeAddressesInSubnet", "", Class::Quota),
            ("InsufficientVolumeCapacity", "", Class::Quota),
            ("MaxSpotInstanceCountExceeded", "", Class::Quota),
            ("VcpuLimitExceeded", "", Class::Capacity(CapacityScope::Group)),
            ("InsufficientInstanceCapacity", "", of_type),
            ("Unsupported", NOT_IN_ZONE, of_type),
            ("Unsupported", "The requested configuration is currently not supported.", Class::Other),
            ("InvalidParameterValue", NOT_IN_ZONE, Class::Other),
            ("throttling", "Throttling", Class::Other),
            ("UnauthorizedOperation", "", Class::Other),
            ("", "", Class::Other),
        ] {
            assert_eq!(classify(&api(code, message)), expected, "{code}");
        }
        for code in "Throttling ThrottlingException ThrottledException RequestThrottledException \
                     TooManyRequestsException ProvisionedThroughputExceededException TransactionInProgressException \
                     RequestLimitExceeded BandwidthLimitExceeded LimitExceededException RequestThrottled SlowDown \
                     PriorRequestNotComplete EC2ThrottledException"
            .split_whitespace()
        {
            assert_eq!(classify(&api(code, "")), Class::RateLimit, "{code}");
        }
        assert_eq!(classify(&QueryError::other("Throttling")), Class::Other);
    }

    #[test]
    fn another_subnet_helps_against_these_only() {
        const NO_ADDRESSES: &str = "There aren't sufficient free Ipv4 addresses or prefixes";
        for (code, message, expected) in [
            ("InsufficientInstanceCapacity", "", true),
            ("InsufficientVolumeCapacity", "", true),
            ("InsufficientFreeAddressesInSubnet", "", true),
            ("InvalidSubnetId.NotFound", "", true),
            ("InvalidSubnetID.NotFound", "", true),
            ("Unsupported", "", true),
            ("InvalidParameterValue", "Not enough free addresses in subnet subnet-abcdefghijk", true),
            ("Client.InvalidParameterValue", NO_ADDRESSES, true),
            ("InvalidParameterValue", NO_ADDRESSES, true),
            ("ClientInvalidParameterValue", NO_ADDRESSES, true),
            ("InvalidParameterCombination", "line one\ninsufficient free ipv6 addresses\nline three", true),
            ("InvalidParameterValue", "Some other invalid parameter error", false),
            ("InvalidParameterValue", "the subnet's name", false),
            ("InvalidParameterValue", "subnet", false),
            ("InvalidParameterValue", "sufficient free ipv5 addresses", false),
            ("UnauthorizedOperation", NO_ADDRESSES, false),
            ("InstanceLimitExceeded", "in subnet x", false),
            ("Throttling", "", false),
        ] {
            assert_eq!(is_subnet_specific(&api(code, message)), expected, "{code} {message}");
        }
        assert!(!is_subnet_specific(&QueryError::other("misc error")));
        assert!(!is_subnet_specific(&QueryError::other("no route to subnet x: InvalidSubnetId.NotFound")));
    }

    #[test]
    fn rate_limits_rest_longer_each_time_up_to_a_minute() {
        let mut backoff = Backoff::default();
        let delays: Vec<f64> = (0..10).map(|time| backoff.throttled(span(time, time + 1)).as_secs_f64()).collect();
        assert_eq!(delays, [1.0, 2.5, 4.75, 8.125, 13.1875, 20.78125, 32.171875, 49.2578125, 60.0, 60.0]);
        backoff.reset();
        assert_eq!(backoff.throttled(span(10, 11)), Duration::from_secs(1));
    }

    /// Calls as the times of begin and end, and the seconds that each rests.
    #[test]
    fn a_burst_counts_once() {
        let mut backoff = Backoff::default();
        for (began, ended, expected) in [
            (0, 5, 1.0),
            (0, 6, 1.0),
            (4, 9, 1.0),
            (5, 7, 2.5),
            (6, 8, 2.5),
            (6, 30, 2.5),
            (7, 31, 4.75),
            (8, 40, 4.75),
        ] {
            assert_eq!(backoff.throttled(span(began, ended)).as_secs_f64(), expected, "{began} {ended}");
        }
        // Somebody got through: what is refused after that is a new limit, whenever it was asked.
        backoff.reset();
        assert_eq!(backoff.throttled(span(0, 41)), Duration::from_secs(1));
    }

    #[test]
    fn quota_and_capacity_leave_the_delay_and_other_errors_end_it() {
        for (code, seconds_after) in [
            ("InstanceLimitExceeded", 2.5),
            ("InsufficientInstanceCapacity", 2.5),
            ("VcpuLimitExceeded", 2.5),
            ("RequestLimitExceeded", 4.75),
            ("UnauthorizedOperation", 1.0),
        ] {
            let mut backoff = Backoff::default();
            backoff.throttled(span(0, 1));
            let _ = backoff.classify(api(code, ""), span(1, 2));
            let error = backoff.classify(api("Throttling", "slower"), span(2, 3));
            let CloudError::RateLimit { message, retry_after } = error else { panic!("{code}: {error:?}") };
            assert_eq!(
                (retry_after.as_secs_f64(), message.as_str()),
                (seconds_after, "Throttling: slower (request id r)")
            );
        }
        let mut backoff = Backoff::default();
        backoff.throttled(span(0, 1));
        let error = backoff.classify(QueryError::other("no route"), span(1, 2));
        assert!(matches!(error, CloudError::Other { message, source: None } if message == "no route"));
        assert_eq!(backoff.throttled(span(2, 3)), Duration::from_secs(1));
    }

    #[test]
    fn errors_of_the_pool_have_the_services_words_and_the_cause() {
        let error = Backoff::default().classify(api("VcpuLimitExceeded", "no more"), span(0, 1));
        assert!(matches!(&error, CloudError::Capacity { scope: CapacityScope::Group, .. }), "{error:?}");
        assert_eq!(error.to_string(), "VcpuLimitExceeded: no more (request id r)");
        let error = unclassified(QueryError::caused("cannot connect", std::io::Error::other("refused")));
        assert_eq!(std::error::Error::source(&error).expect("kept").to_string(), "refused");
        assert_eq!(unclassified(api("Throttling", "m")).to_string(), "Throttling: m (request id r)");
    }
}
