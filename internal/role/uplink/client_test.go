//go:build linux

package uplink

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script answers exchanges as told, and writes down when each came and what became of it.
type script struct {
	begin   time.Time
	answers []error // of the exchanges in order; then all succeed
	log     []string
}

const hour = time.Hour

func (s *script) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%v ", time.Since(s.begin).Round(time.Minute))+fmt.Sprintf(format, args...))
}

func (s *script) next(what string) (*Lease, error) {
	s.note("%s", what)
	if len(s.answers) > 0 {
		err := s.answers[0]
		s.answers = s.answers[1:]
		if err != nil {
			return nil, err
		}
	}
	return &Lease{Prefix: netip.MustParsePrefix("192.0.2.7/24"), Taken: time.Now(), Renew: hour, Rebind: 2 * hour, Valid: 3 * hour}, nil
}

func (s *script) discover(context.Context) (*Lease, error) { return s.next("discover") }

func (s *script) renew(_ context.Context, _ *Lease, any bool) (*Lease, error) {
	if any {
		return s.next("rebind")
	}
	return s.next("renew")
}

func play(t *testing.T, during time.Duration, answers ...error) []string {
	t.Helper()
	s := &script{answers: answers}
	synctest.Test(t, func(t *testing.T) {
		s.begin = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), during)
		defer cancel()
		(&client{server: s,
			got: func(l *Lease, why error) {
				if l == nil {
					s.note("lost: %v", why)
				} else {
					s.note("got")
				}
			},
			silent: func(error) {},
		}).run(ctx)
	})
	return s.log
}

func TestLeaseIsRenewed(t *testing.T) {
	want := []string{"0s discover", "0s got", "1h0m0s renew", "1h0m0s got", "2h0m0s renew", "2h0m0s got"}
	if diff := cmp.Diff(want, play(t, 150*time.Minute)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Half of what is left between the tries, at least a minute; the address stays to the end.
func TestSilentServerCostsTheAddressOnlyAtTheEnd(t *testing.T) {
	silence := make([]error, 100)
	silence[0] = nil
	for i := 1; i < len(silence); i++ {
		silence[i] = errors.New("nobody answers")
	}
	got := play(t, 3*hour+30*time.Second, silence...)
	want := []string{"0s discover", "0s got",
		"1h0m0s renew", "1h30m0s renew", "1h45m0s renew", "1h53m0s renew", "1h56m0s renew", "1h58m0s renew", "1h59m0s renew", "2h0m0s rebind",
		"2h30m0s rebind", "2h45m0s rebind", "2h53m0s rebind", "2h56m0s rebind", "2h58m0s rebind", "2h59m0s rebind",
		"3h0m0s lost: the lease is over, and no server has prolonged it", "3h0m0s discover"}
	// Afterwards it asks on, at random moments.
	if len(got) < len(want) {
		t.Fatalf("got only %q", got)
	}
	if diff := cmp.Diff(want, got[:len(want)]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRefusedAddressIsGivenUpAtOnce(t *testing.T) {
	want := []string{"0s discover", "0s got", "1h0m0s renew", "1h0m0s lost: " + errRefused.Error(), "1h0m0s discover", "1h0m0s got"}
	if diff := cmp.Diff(want, play(t, 90*time.Minute, nil, errRefused)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDiscoveryGoesOn(t *testing.T) {
	var none []error
	for range 20 {
		none = append(none, errors.New("nobody answers"))
	}
	got := play(t, 40*time.Minute, none...)
	if len(got) != 22 || got[21] != got[20][:len(got[20])-len("discover")]+"got" {
		t.Errorf("after 20 discoveries in vain: %q", got)
	}
}
