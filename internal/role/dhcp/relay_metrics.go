package dhcp

import "github.com/prometheus/client_golang/prometheus"

// RelayMetrics are the relay's counters. They are made once in a process and outlive a relay
// that is made anew. Safe for concurrent use.
type RelayMetrics struct {
	requests, replies, floods *prometheus.CounterVec
	drops                     [refusals]prometheus.Counter
}

// NewRelayMetrics registers the relay's metrics at reg, which must not have them yet.
func NewRelayMetrics(reg prometheus.Registerer) *RelayMetrics {
	m := &RelayMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hotstage_dhcp_relay_requests_total",
			Help: "Messages of devices that were sent on to the servers, by segment. It rises and hotstage_dhcp_relay_replies_total does not: the servers are silent, look at the event relay-unanswered.",
		}, []string{"segment"}),
		replies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hotstage_dhcp_relay_replies_total",
			Help: "Answers that were brought to devices, by segment and server. One server stands still while others rise: look at that node.",
		}, []string{"segment", "server"}),
		floods: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hotstage_dhcp_relay_flood_total",
			Help: "Messages dropped because their port brought more than its share, by segment and port. Any: look at what is behind that port.",
		}, []string{"segment", "port"}),
	}
	drops := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hotstage_dhcp_relay_dropped_total",
		Help: "Messages that were not relayed, by reason. too-many: one device floods; port-flood: see hotstage_dhcp_relay_flood_total; foreign-relay, hops: a relay that the plan does not have, or two in a ring; spoofed-option: a device poses as a relay; not-a-server, not-ours, not-of-segment: answers that nobody of the plan may give; undelivered: look at the device.",
	}, []string{"reason"})
	reg.MustRegister(m.requests, m.replies, m.floods, drops)
	for i, w := range refusalWords {
		if refusal(i) != passed {
			m.drops[i] = drops.WithLabelValues(w)
		}
	}
	return m
}
