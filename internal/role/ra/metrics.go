package ra

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the announcer does. Make it once per process.
type Metrics struct {
	serving   *prometheus.GaugeVec
	sent      *prometheus.CounterVec
	failed    *prometheus.CounterVec
	solicited *prometheus.CounterVec
	invalid   *prometheus.CounterVec
	foreign   *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotstage_ra_" + name, Help: help}, append([]string{"segment"}, labels...))
	}
	m := &Metrics{
		serving: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hotstage_ra_serving",
			Help: "1 while the segment's device is there and IPv6 is announced on it. At 0 look at ip -6 address show on the node."}, []string{"segment"}),
		sent:      counter("advertisements_total", "Router advertisements sent, by kind. A high unicast rate is people arriving; no multicast for 10 minutes is a fault.", "kind"),
		failed:    counter("send_errors_total", "Advertisements that the kernel refused. When it moves look at the device and its link-local address."),
		solicited: counter("solicitations_total", "Valid router solicitations heard. One device asking on and on does not hear the answers: look at its access point."),
		invalid:   counter("invalid_total", "Packets dropped, by why. When it moves somebody forges or floods: capture icmp6 on the segment.", "why"),
		foreign:   counter("foreign_advertisements_total", "Advertisements of other routers. When it moves find their port and shut it; turn RA guard on."),
	}
	reg.MustRegister(m.serving, m.sent, m.failed, m.solicited, m.invalid, m.foreign)
	return m
}
