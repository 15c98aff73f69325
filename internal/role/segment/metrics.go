//go:build linux

package segment

import (
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are made once per process and outlive the server.
type Metrics struct {
	dropped *prometheus.CounterVec
	repairs prometheus.Counter
	right   prometheus.Gauge
	last    map[string]uint64 // values of the kernel's counters when last read
}

// NewMetrics makes the metrics of the role and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hotstage_segment_dropped_packets_total",
			Help: "Packets that the filter dropped, by reason. A steady rise of attendee_to_attendee or attendee_to_management is somebody scanning: find him by who; internet_* rises always.",
		}, []string{"reason"}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hotstage_segment_repairs_total",
			Help: "Times that links, addresses, routes or the filter were put back. When it rises after the start, another program or person changes them: read the drift events.",
		}),
		right: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hotstage_segment_as_planned",
			Help: "1 while this node's part of the segments is as planned. When 0 for more than seconds, hotstage status says what cannot be put right.",
		}),
		last: map[string]uint64{},
	}
	for _, r := range reasons {
		m.dropped.WithLabelValues(r.name)
	}
	reg.MustRegister(m.dropped, m.repairs, m.right)
	return m
}

// count takes the kernel's counters over. One caller at a time.
func (m *Metrics) count(now map[string]kernel.Count) {
	for _, r := range reasons {
		n := now[r.name].Packets
		if last := m.last[r.name]; n >= last {
			m.dropped.WithLabelValues(r.name).Add(float64(n - last))
		} else { // somebody deleted the table
			m.dropped.WithLabelValues(r.name).Add(float64(n))
		}
		m.last[r.name] = n
	}
}
