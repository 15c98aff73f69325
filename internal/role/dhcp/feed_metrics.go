package dhcp

import "github.com/prometheus/client_golang/prometheus"

// FeedMetrics are the counters of a feed and its follower. They are made once in a process.
// Safe for concurrent use.
type FeedMetrics struct {
	rows        prometheus.Gauge
	seconds     prometheus.Gauge
	copied      prometheus.Counter
	failures    prometheus.Counter
	took        prometheus.Histogram
	synchronous prometheus.Gauge
}

// NewFeedMetrics registers the metrics at reg, which must not have them yet.
func NewFeedMetrics(reg prometheus.Registerer) *FeedMetrics {
	m := &FeedMetrics{
		rows: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hotstage_leases_behind_rows",
			Help: "Leases that the shared database does not have in their last state. More than 0 for over a second: it is slow or away; devices are served all the same, look at the event lease-copy-failed.",
		}),
		seconds: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hotstage_leases_behind_seconds",
			Help: "How long the shared database has lacked a lease. What is lost if this node's disk dies now; over 1: mend the database.",
		}),
		copied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hotstage_leases_copied_total",
			Help: "Leases copied to the shared database. It rises with the DHCP acks; by thousands at once after the database was away or made anew.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hotstage_leases_copy_failures_total",
			Help: "Attempts to reach the shared database that failed. One now and then is a restart; a steady rise: look at the event lease-copy-failed for the cause.",
		}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "hotstage_leases_copy_seconds",
			Help:    "Time to copy one group of leases to the shared database. With sync every ACK waits so long: over 0.05 s look at its disk and at the way to it.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 11),
		}),
		synchronous: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hotstage_leases_synchronous",
			Help: "1 while each ACK waits for the shared database (dhcp.sync), else 0. 0 although the plan says sync: this node goes on alone, look at the event leases-alone.",
		}),
	}
	reg.MustRegister(m.rows, m.seconds, m.copied, m.failures, m.took, m.synchronous)
	return m
}
