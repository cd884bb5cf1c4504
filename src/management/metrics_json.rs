//! Metric families as JSON: protobuf's JSON mapping, with names in lower camel case, 64-bit integers as text and
//! infinite numbers as words. Pure. Spec 82 §5.

use prometheus::proto::{Metric, MetricFamily, MetricType};
use serde_json::{Value, json};

/// An array with one object per family, in the order given.
pub fn families_json(families: &[MetricFamily]) -> Value {
    families.iter().map(family_json).collect()
}

fn family_json(family: &MetricFamily) -> Value {
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "COUNTER",
        MetricType::GAUGE => "GAUGE",
        MetricType::SUMMARY => "SUMMARY",
        MetricType::UNTYPED => "UNTYPED",
        MetricType::HISTOGRAM => "HISTOGRAM",
    };
    let metrics: Vec<Value> =
        family.get_metric().iter().map(|metric| metric_json(family.get_field_type(), metric)).collect();
    json!({"name": family.name(), "help": family.help(), "type": kind, "metric": metrics})
}

fn metric_json(kind: MetricType, metric: &Metric) -> Value {
    let labels: Vec<Value> =
        metric.get_label().iter().map(|label| json!({"name": label.name(), "value": label.value()})).collect();
    let (key, value) = match kind {
        MetricType::COUNTER => ("counter", json!({"value": number(metric.get_counter().get_value())})),
        MetricType::HISTOGRAM => ("histogram", histogram_json(metric)),
        // Nothing here makes summaries or untyped metrics.
        MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {
            ("gauge", json!({"value": number(metric.get_gauge().get_value())}))
        }
    };
    json!({"label": labels, key: value})
}

fn histogram_json(metric: &Metric) -> Value {
    let histogram = metric.get_histogram();
    let buckets: Vec<Value> = histogram
        .get_bucket()
        .iter()
        .map(|bucket| {
            json!({"cumulativeCount": bucket.cumulative_count().to_string(), "upperBound": number(bucket.upper_bound())})
        })
        .collect();
    json!({
        "sampleCount": histogram.get_sample_count().to_string(),
        "sampleSum": number(histogram.get_sample_sum()),
        "bucket": buckets,
    })
}

fn number(value: f64) -> Value {
    match value {
        _ if value.is_finite() => json!(value),
        _ if value.is_nan() => json!("NaN"),
        _ if value > 0.0 => json!("Infinity"),
        _ => json!("-Infinity"),
    }
}
