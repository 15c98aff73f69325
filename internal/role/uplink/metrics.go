//go:build linux

package uplink

import "github.com/prometheus/client_golang/prometheus"

// Metrics are made once per process and outlive the server.
type Metrics struct {
	up      *prometheus.GaugeVec
	leases  *prometheus.CounterVec
	repairs prometheus.Counter
}

// NewMetrics makes the metrics of the role and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hotstage_uplink_up",
			Help: "1 while the uplink's interface is there, has a carrier and an address. When 0, look at the cable, then call the provider; hotstage status says what is missing.",
		}, []string{"uplink"}),
		leases: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hotstage_uplink_dhcp_total",
			Help: "Exchanges with the provider's DHCP server by result: got, silent, lost. When silent rises the address is still used until the lease ends: call the provider before that.",
		}, []string{"uplink", "result"}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hotstage_uplink_repairs_total",
			Help: "Times that addresses, routes or parameters of uplinks were put back. When it rises after the start, another program manages the interface: tell it not to.",
		}),
	}
	reg.MustRegister(m.up, m.leases, m.repairs)
	return m
}
