//go:build linux

package napt

import (
	"fmt"
	"sync"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Metrics are made once per process and outlive the server.
type Metrics struct {
	table, max prometheus.Gauge
	sessions   *prometheus.GaugeVec
	translated prometheus.Counter
	lost       *prometheus.CounterVec
	repairs    prometheus.Counter

	mu          sync.Mutex // of the rest
	lastFlows   uint64
	lastLost    map[string]uint64
	hadSessions map[[2]string]bool
}

// NewMetrics makes the metrics of the role and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		table: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hotstage_napt_table_entries",
			Help: "Flows in the connection tracking table. Over half of hotstage_napt_table_size a burst may not fit: shorten napt.timeout.udp in the plan, or raise the table.",
		}),
		max: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hotstage_napt_table_size",
			Help: "Flows that fit the table. When it is less than the plan needs, hotstage status says what to type.",
		}),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hotstage_napt_sessions",
			Help: "Translated flows by address of the exit and protocol, counted every 20 s. An address has 64,512 ports to one destination: near that, add addresses to the uplink.",
		}, []string{"address", "protocol"}),
		translated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hotstage_napt_flows_total",
			Help: "Flows that were given an address. When it stands still while people are there, nobody reaches the internet by IPv4: look at the uplink.",
		}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hotstage_napt_lost_flows_total",
			Help: "New flows that found no place or no port (insert-failed, dropped), and old ones that were forgotten early for new ones (early-dropped). Any rise is felt by attendees: the table or the ports are full.",
		}, []string{"reason"}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hotstage_napt_repairs_total",
			Help: "Times that translation was put back. When it rises after the start, another program or person changes it: read the drift events.",
		}),
		lastLost: map[string]uint64{}, hadSessions: map[[2]string]bool{},
	}
	reg.MustRegister(m.table, m.max, m.sessions, m.translated, m.lost, m.repairs)
	return m
}

// tracking takes the kernel's numbers over. Safe for concurrent use, as all methods.
func (m *Metrics) tracking(t kernel.Tracking) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table.Set(float64(t.Count))
	m.max.Set(float64(t.Max))
	for reason, now := range map[string]uint64{"insert-failed": t.InsertFailed, "dropped": t.Dropped, "early-dropped": t.EarlyDropped} {
		m.lost.WithLabelValues(reason).Add(float64(since(m.lastLost[reason], now)))
		m.lastLost[reason] = now
	}
}

func (m *Metrics) flows(now uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.translated.Add(float64(since(m.lastFlows, now)))
	m.lastFlows = now
}

// since is the growth of a counter that may have begun again at 0.
func since(last, now uint64) uint64 {
	if now < last {
		return now
	}
	return now - last
}

func (m *Metrics) perAddress(all map[kernel.Session]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[[2]string]bool{}
	for s, n := range all {
		labels := [2]string{s.Addr.String(), protocolName(s.Protocol)}
		m.sessions.WithLabelValues(labels[:]...).Set(float64(n))
		seen[labels] = true
	}
	for labels := range m.hadSessions {
		if !seen[labels] {
			m.sessions.DeleteLabelValues(labels[:]...)
		}
	}
	m.hadSessions = seen
}

func protocolName(p uint8) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	}
	return fmt.Sprint(p)
}
