package unbound

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the children do. Make it once per process.
type Metrics struct {
	starts *prometheus.CounterVec
	stat   *prometheus.GaugeVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		starts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotstage_resolver_unbound_starts_total",
			Help: "Starts of each child. More than one: it died, look at the events for its last words."}, []string{"child"}),
		stat: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hotstage_resolver_unbound",
			Help: "Each child's statistics since its start, by Unbound's own names (times in seconds). When total.requestlist.current.all or total.recursion.time.median grow, look at the uplink; when num.answer.bogus grows, at the clock and at whoever stands between."}, []string{"child", "name"}),
	}
	reg.MustRegister(m.starts, m.stat)
	return m
}
