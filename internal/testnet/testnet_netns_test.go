//go:build linux

package testnet

import "testing"

func TestVethJoinsTwoNamespaces(t *testing.T) {
	a, b := Namespace(t), Namespace(t)
	Veth(t, a, "a0", []string{"10.9.0.1/24"}, b, "b0", []string{"10.9.0.2/24"})
	ping := Tools(t, "ping")[0]
	if out, err := Output(a, ping, "-c1", "-W2", "10.9.0.2"); err != nil {
		t.Fatalf("ping: %v\n%s", err, out)
	}
}
