package resolver

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"mime"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
)

const (
	dohPath   = "/dns-query"
	dohType   = "application/dns-message" // RFC 8484 section 6
	dohHeader = 8 << 10                   // octets of a request's header: a query of maxQuery by GET is 2,731
)

// webServer is HTTP/2 and nothing else, for connections that have shaken hands.
func (x *secure) webServer(idle time.Duration) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler: http.HandlerFunc(x.serveHTTP), Protocols: protocols, MaxHeaderBytes: dohHeader, IdleTimeout: idle,
		ReadTimeout: handshakeTime, WriteTimeout: flightTime + writeTime, // of a request, not of the connection
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: secureStreams, MaxReadFrameSize: 16 << 10, MaxDecoderHeaderTableSize: 4 << 10, MaxEncoderHeaderTableSize: 4 << 10,
			MaxReceiveBufferPerConnection: 64 << 10, MaxReceiveBufferPerStream: 4 << 10, WriteByteTimeout: writeTime,
		},
		ErrorLog: log.New(io.Discard, "", 0), // what a client does wrong is counted, not logged
	}
}

// serveHTTP answers one request (RFC 8484 section 4).
func (x *secure) serveHTTP(w http.ResponseWriter, r *http.Request) {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || r.URL.Path != dohPath {
		http.Error(w, "DNS is at "+dohPath, http.StatusNotFound)
		return
	}
	query, status := dohQuery(w, r)
	if status != http.StatusOK {
		x.s.m.malformed.Inc()
		if status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", "GET, POST")
		}
		http.Error(w, http.StatusText(status), status)
		return
	}
	reply, err := x.s.exchange(r.Context(), x.doh, query, at.Addr().Unmap().WithZone(""))
	switch {
	case errors.Is(err, errNoQuery):
		http.Error(w, "not a DNS query", http.StatusBadRequest)
	case errors.Is(err, errShare):
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many queries", http.StatusTooManyRequests)
	case err != nil: // the client has left, or we are to stop
		http.Error(w, "no answer", http.StatusServiceUnavailable)
	default:
		h := w.Header()
		h.Set("Content-Type", dohType)
		h.Set("Content-Length", strconv.Itoa(len(reply)))
		h.Set("Cache-Control", "max-age="+strconv.FormatUint(uint64(freshness(reply)), 10))
		w.Write(reply)
	}
}

// dohQuery is the message of a request, at most maxQuery octets, or the status that tells the
// client why it has none.
func dohQuery(w http.ResponseWriter, r *http.Request) ([]byte, int) {
	switch r.Method {
	case http.MethodGet:
		q := r.URL.Query()["dns"]
		if len(q) != 1 {
			return nil, http.StatusBadRequest
		}
		if base64.RawURLEncoding.DecodedLen(len(q[0])) > maxQuery {
			return nil, http.StatusRequestURITooLong
		}
		b, err := base64.RawURLEncoding.DecodeString(q[0]) // RFC 8484 section 6: without padding
		if err != nil || len(b) == 0 {
			return nil, http.StatusBadRequest
		}
		return b, http.StatusOK
	case http.MethodPost:
		if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != dohType {
			return nil, http.StatusUnsupportedMediaType
		}
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuery))
		switch {
		case errors.As(err, new(*http.MaxBytesError)):
			return nil, http.StatusRequestEntityTooLarge
		case err != nil:
			return nil, http.StatusRequestTimeout
		case len(b) == 0:
			return nil, http.StatusBadRequest
		}
		return b, http.StatusOK
	}
	return nil, http.StatusMethodNotAllowed
}

// freshness is how many seconds an answer may be kept by HTTP: as long as the first of its
// answers lasts, or as its SOA says that there is none (RFC 8484 section 5.1). An answer of
// neither kind is an error, and not kept.
func freshness(reply []byte) uint32 {
	least, some := uint32(0), false
	lower := func(ttl uint32) {
		if !some || ttl < least {
			least, some = ttl, true
		}
	}
	answers := false
	_, err := wire.WalkDNS(reply, func(r wire.DNSRecord) {
		switch {
		case r.Section == 1:
			answers = true
			lower(r.TTL)
		case r.Section == 2 && !answers && r.Type == wire.DNSTypeSOA && r.End-r.Data >= 22:
			lower(min(r.TTL, binary.BigEndian.Uint32(reply[r.End-4:])))
		}
	})
	if err != nil || least > 1<<31-1 { // RFC 2181 section 8
		return 0
	}
	return least
}
