package plan

import (
	"encoding/hex"
	"regexp"
	"strings"
)

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
