//go:build linux

package internet

import (
	"net/netip"
	"time"

	ntp "github.com/facebook/time/ntp/protocol"
)

// time answers an NTP client from the machine's clock, as a stratum 2 server would
// (RFC 5905 section 9.2).
func (in *Internet) time(_, _ netip.Addr, query, _ []byte) []byte {
	received := time.Now()
	q, err := ntp.BytesToPacket(query)
	const client = 3
	if err != nil || q.Settings&7 != client {
		in.counts.malformed.Add(1)
		return nil
	}
	r := ntp.Packet{
		Settings:       q.Settings&0x38 | 4, // no leap second, the client's version, server
		Stratum:        2,
		Poll:           q.Poll,
		Precision:      -20, // 2^-20 s: about a microsecond
		RootDelay:      66,  // 1 ms in 16.16
		RootDispersion: 66,
		ReferenceID:    0xc6120001, // 198.18.0.1, the stratum 1 server that this one claims to follow
		OrigTimeSec:    q.TxTimeSec,
		OrigTimeFrac:   q.TxTimeFrac,
	}
	r.RefTimeSec, r.RefTimeFrac = ntp.Time(received.Add(-time.Minute))
	r.RxTimeSec, r.RxTimeFrac = ntp.Time(received)
	r.TxTimeSec, r.TxTimeFrac = ntp.Time(time.Now())
	answer, err := r.Bytes()
	if err != nil {
		in.counts.malformed.Add(1)
		return nil
	}
	in.counts.times.Add(1)
	return answer
}
