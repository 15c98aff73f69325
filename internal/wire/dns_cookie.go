package wire

import "encoding/binary"

// dnsOptionCookie is the code of COOKIE (RFC 7873 section 8).
const dnsOptionCookie uint16 = 10

// cookie finds the COOKIE option among the options of an OPT record; nil without one. It is
// not ok when the options cannot be told apart, or the cookie is not as RFC 7873 section 4
// has it: then the query gets FORMERR (section 5.2.2). Of several cookies the first counts.
func cookie(options []byte) (found []byte, ok bool) {
	for len(options) > 0 {
		if len(options) < 4 {
			return nil, false
		}
		end := 4 + int(binary.BigEndian.Uint16(options[2:]))
		if end > len(options) {
			return nil, false
		}
		if data := options[4:end:end]; binary.BigEndian.Uint16(options) == dnsOptionCookie && found == nil {
			if n := len(data); n != 8 && (n < 16 || n > 40) {
				return nil, false
			}
			found = data
		}
		options = options[end:]
	}
	return found, true
}
