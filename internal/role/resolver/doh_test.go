package resolver

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// stall is a body that comes to nothing.
type stall struct{ done <-chan struct{} }

func (s stall) Read([]byte) (int, error) { <-s.done; return 0, io.EOF }

// TestWebRequests goes through what a client may do, and the status that tells it.
func TestWebRequests(t *testing.T) {
	b := newBooth(t, nil)
	good := question(t, "gw1.yapc.example", dns.TypeA, zeroID)
	long := append(bytes.Clone(good), make([]byte, maxQuery)...)
	coded := func(b []byte) string { return "?dns=" + base64.RawURLEncoding.EncodeToString(b) }
	response := bytes.Clone(good)
	response[2] |= 0x80
	for _, c := range []struct {
		name, method, path, kind string
		body                     []byte
		want                     int
	}{
		{"get", "GET", dohPath + coded(good), "", nil, 200},
		{"get with another parameter", "GET", dohPath + coded(good) + "&ct", "", nil, 200},
		{"post", "POST", dohPath, dohType, good, 200},
		{"post with a parameter", "POST", dohPath, dohType + "; charset=utf-8", good, 200},
		{"FORMERR is an answer", "POST", dohPath, dohType, good[:len(good)-2], 200},
		{"elsewhere", "GET", "/" + coded(good), "", nil, 404},
		{"below", "GET", dohPath + "/x" + coded(good), "", nil, 404},
		{"no message", "GET", dohPath, "", nil, 400},
		{"two messages", "GET", dohPath + coded(good) + "&dns=AAAA", "", nil, 400},
		{"empty", "GET", dohPath + "?dns=", "", nil, 400},
		{"no base64url", "GET", dohPath + "?dns=" + url.QueryEscape("a+/="), "", nil, 400},
		{"a piece", "GET", dohPath + coded(good[:11]), "", nil, 400},
		{"an answer", "POST", dohPath, dohType, response, 400},
		{"nothing posted", "POST", dohPath, dohType, nil, 400},
		{"head", "HEAD", dohPath + coded(good), "", nil, 405},
		{"put", "PUT", dohPath, dohType, good, 405},
		{"long", "POST", dohPath, dohType, long, 413},
		{"long", "GET", dohPath + coded(long), "", nil, 414},
		{"no type", "POST", dohPath, "", good, 415},
		{"json", "POST", dohPath, "application/dns-json", good, 415},
	} {
		r := httptest.NewRequest(c.method, c.path, bytes.NewReader(c.body))
		r.RemoteAddr = "10.1.0.50:1234"
		if c.kind != "" {
			r.Header.Set("Content-Type", c.kind)
		}
		w := httptest.NewRecorder()
		b.server.secure.serveHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, c.want)
		}
		h := w.Header()
		if c.want == 200 && (h.Get("Content-Type") != dohType || !strings.HasPrefix(h.Get("Cache-Control"), "max-age=")) {
			t.Errorf("%s: header %v", c.name, h)
		}
		if c.want != 200 && (h.Get("Content-Type") == dohType || h.Get("Cache-Control") != "") {
			t.Errorf("%s: header %v", c.name, h)
		}
		if c.want == 405 && h.Get("Allow") != "GET, POST" {
			t.Errorf("%s: header %v", c.name, h)
		}
	}
}

func TestFreshness(t *testing.T) {
	const soa = "!example.net. 900 IN SOA ns.example.net. hostmaster.example.net. 1 3600 600 86400 60"
	for _, c := range []struct {
		name    string
		rcode   int
		records []string
		want    uint32
	}{
		{"the least of the answers", 0, []string{"www.example.net. 600 IN CNAME w.example.net.", "w.example.net. 30 IN A 192.0.2.1", "w.example.net. 300 IN A 192.0.2.2"}, 30},
		{"not of what is beside", 0, []string{"www.example.net. 600 IN A 192.0.2.1", "!example.net. 5 IN NS ns.example.net."}, 600},
		{"no such type", 0, []string{soa}, 60},
		{"no such name", 3, []string{soa}, 60},
		{"a chain to nothing", 3, []string{"www.example.net. 20 IN CNAME w.example.net.", soa}, 20},
		{"an SOA that lasts less than it says", 3, []string{strings.Replace(soa, "900", "7", 1)}, 7},
		{"an error", 2, nil, 0},
		{"nothing at all", 0, nil, 0},
	} {
		if got := freshness(response(t, "www.example.net", dns.TypeA, c.rcode, c.records...)); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestSlowBody: a request whose body does not come is given up, and takes nothing from the
// others of its connection.
func TestSlowBody(t *testing.T) {
	t.Parallel() // 5 s of waiting
	b := newBooth(t, nil)
	c := b.browser(t, "127.0.0.1")
	query := question(t, "gw1.yapc.example", dns.TypeA)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	begun := time.Now()
	go func() {
		r, _ := http.NewRequestWithContext(ctx, http.MethodPost, dohURL, stall{ctx.Done()})
		r.Header.Set("Content-Type", dohType)
		r.ContentLength = 100
		res, err := c.Do(r)
		if err == nil {
			res.Body.Close()
		}
		ended <- err
	}()
	for range 20 {
		if _, _, err := askWeb(c, http.MethodPost, query); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-ended:
		if d := time.Since(begun); d < handshakeTime/2 {
			t.Errorf("given up after %v", d)
		}
	case <-time.After(10 * handshakeTime): // a busy machine
		t.Error("the request is waited for still")
	}
	if _, _, err := askWeb(c, http.MethodPost, query); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// FuzzWebRequest: whatever a request has, there is a status, no message is longer than a
// query may be, and an answer is one.
func FuzzWebRequest(f *testing.F) {
	good := question(f, "gw1.yapc.example", dns.TypeA, padded)
	f.Add("GET", "dns="+base64.RawURLEncoding.EncodeToString(good), "", []byte(nil))
	f.Add("POST", "", dohType, good)
	f.Add("POST", "", dohType, bytes.Repeat([]byte{7}, 3000))
	f.Add("HEAD", "dns=%zz;&dns", "text/", []byte{0})
	b := newBooth(f, nil)
	f.Fuzz(func(t *testing.T, method, query, kind string, body []byte) {
		r := httptest.NewRequest("GET", dohPath, bytes.NewReader(body))
		r.Method, r.URL.RawQuery = method, query
		r.Header.Set("Content-Type", kind)
		r.RemoteAddr = "10.1.0.50:1234"
		msg, status := dohQuery(httptest.NewRecorder(), r.Clone(t.Context()))
		if len(msg) > maxQuery || (status == 200) != (len(msg) > 0) || status == 200 && method != "GET" && method != "POST" {
			t.Fatalf("%d octets, status %d", len(msg), status)
		}
		if q, err := wire.ParseDNSQuery(msg); err == nil && b.server.handler.local.find(wire.LowerDNS(nil, q.Name)) == nil {
			return // would be asked for outside
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		w := httptest.NewRecorder()
		b.server.secure.serveHTTP(w, r)
		if w.Code == 200 && (w.Body.Len() < wire.DNSHeader || w.Body.Bytes()[2]&0x80 == 0) {
			t.Fatalf("no answer: %x", w.Body)
		}
	})
}
