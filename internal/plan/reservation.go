package plan

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// reserve holds a reservation against the segment and what is taken there.
func (d *deriver) reserve(s *draft, res rawReservation, given map[string]netip.Addr, taken map[netip.Addr]string) {
	switch {
	case res.mac == nil && res.at.has("mac") || res.id == nil && res.at.has("client_id") || !res.addr.IsValid() && res.at.has("address"):
		return // told already
	case res.mac == nil && res.id == nil:
		d.at(res.at, "reservation "+res.name+" has no mac and no client_id", "exactly one of mac: 02:00:5e:10:00:01 and client_id: 01:02:00:5e:10:00:01", "")
		return
	case res.mac != nil && res.id != nil:
		d.at(res.at.field("client_id"), "reservation "+res.name+" has both a mac and a client_id", "exactly one of them",
			"mac, whatever system runs on the device; client_id, whatever network card it uses")
		return
	case !res.addr.IsValid():
		d.at(res.at, "reservation "+res.name+" has no address", fmt.Sprintf("address: a host of %s", s.IPv4), "")
		return
	case !s.host(res.addr):
		d.at(res.at.field("address"), fmt.Sprintf("reservation %s: %s is not a host of %s", res.name, res.addr, s.IPv4), "a host address of the segment", "")
		return
	case taken[res.addr] != "":
		d.at(res.at.field("address"), fmt.Sprintf("reservation %s: %s is already that of %s", res.name, res.addr, taken[res.addr]), "an address of its own", "")
		return
	}
	for _, o := range s.Reservations {
		switch {
		case res.mac != nil && slices.Equal(o.MAC, res.mac):
			d.at(res.at.field("mac"), fmt.Sprintf("reservations %s and %s are for one MAC", o.Name, res.name), "one a device", "")
			return
		case res.id != nil && slices.Equal(o.ClientID, res.id):
			d.at(res.at.field("client_id"), fmt.Sprintf("reservations %s and %s are for one client_id", o.Name, res.name), "one a device", "")
			return
		}
	}
	taken[res.addr] = res.name
	s.Reservations = append(s.Reservations, res.reservation())
}

func (r rawReservation) reservation() Reservation {
	return Reservation{Name: r.name, MAC: r.mac, ClientID: r.id, Addr: r.addr}
}

// hexBytes is how a client identifier is written that is no text.
var hexBytes = regexp.MustCompile(`^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2})+$`)

// clientIDText stands before a client identifier that is written as text.
const clientIDText = "text:"

// clientID reads a DHCP client identifier, as hexadecimal bytes with colons or as text. It
// has 2 to 255 bytes (RFC 2132 section 9.14).
func (r *reader) clientID(dst *[]byte) func(*value) {
	return func(v *value) {
		const allowed = "2 to 255 bytes: hexadecimal with colons, such as 01:02:00:5e:10:00:01, or text:NAME"
		if !r.want(v, scalar, allowed) {
			return
		}
		text, isText := strings.CutPrefix(v.text, clientIDText)
		b := []byte(text)
		if !isText {
			if !hexBytes.MatchString(v.text) {
				hint := ""
				if len(v.text) > 1 {
					hint = "write it as " + clientIDText + v.text + " if the device sends just these letters"
				}
				r.at(v, "not a client identifier", allowed, hint)
				return
			}
			b, _ = hex.DecodeString(strings.ReplaceAll(v.text, ":", "")) // cannot fail: hexBytes
		}
		if len(b) < 2 || len(b) > 255 {
			r.at(v, "not a client identifier of a length that DHCP allows", allowed, "")
			return
		}
		*dst = b
	}
}

// clientIDWords is a client identifier as the plan has it: text when all of it can be read.
func clientIDWords(id []byte) string {
	if strings.IndexFunc(string(id), func(c rune) bool { return c <= ' ' || c > '~' }) < 0 {
		return clientIDText + string(id)
	}
	parts := make([]string, len(id))
	for i, b := range id {
		parts[i] = hex.EncodeToString([]byte{b})
	}
	return strings.Join(parts, ":")
}
