package resolver

import (
	"net/http"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

func unlimited(_ *booth, cfg *Config) { cfg.Rate = 10_000_000 }

// BenchmarkSecureHandshake opens connections one after the other; both ends are of this
// process.
func BenchmarkSecureHandshake(b *testing.B) {
	s := newBooth(b, unlimited)
	b.Run("dot", func(b *testing.B) {
		for range b.N {
			c, err := s.overTLS(b, "127.0.0.1")
			if err != nil {
				b.Fatal(err)
			}
			c.Close()
		}
	})
	b.Run("doq", func(b *testing.B) {
		for range b.N {
			c, err := s.overQUIC(b, "127.0.0.1")
			if err != nil {
				b.Fatal(err)
			}
			c.CloseWithError(doqNoError, "")
		}
	})
}

// BenchmarkSecureQueries asks over one connection, one question after the other and, where
// the way allows, sixteen side by side; both ends are of this process.
func BenchmarkSecureQueries(b *testing.B) {
	s := newBooth(b, unlimited)
	query := question(b, "gw1.yapc.example", dns.TypeA, zeroID, padded)
	private, err := s.overTLS(b, "127.0.0.1")
	if err != nil {
		b.Fatal(err)
	}
	quick, err := s.overQUIC(b, "127.0.0.1")
	if err != nil {
		b.Fatal(err)
	}
	web := s.browser(b, "127.0.0.1")
	for _, way := range []struct {
		name   string
		beside int
		ask    func() error
	}{
		{"dot", 1, func() error { _, err := askStream(private, query); return err }},
		{"doh", 1, func() error { _, _, err := askWeb(web, http.MethodPost, query); return err }},
		{"doh", 16, func() error { _, _, err := askWeb(web, http.MethodPost, query); return err }},
		{"doq", 1, func() error { _, err := askQUIC(quick, lengthed(query)); return err }},
		{"doq", 16, func() error { _, err := askQUIC(quick, lengthed(query)); return err }},
	} {
		b.Run(way.name+map[int]string{1: "", 16: "-16"}[way.beside], func(b *testing.B) {
			var all sync.WaitGroup
			for i := range way.beside {
				all.Go(func() {
					for n := i; n < b.N; n += way.beside {
						if err := way.ask(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
		})
	}
}
