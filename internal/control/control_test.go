package control

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
)

func TestOneNodePerStateDirectory(t *testing.T) {
	dir := t.TempDir()
	mux := http.NewServeMux()
	mux.Handle("GET /status", JSON(func() any { return map[string]string{"node": "gw1"} }))
	s, release, err := Listen(dir, mux)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()

	var got map[string]string
	if err := Fetch(t.Context(), dir, "status", &got); err != nil || got["node"] != "gw1" {
		t.Errorf("status: %v, %v", got, err)
	}
	if err := Fetch(t.Context(), dir, "nothing", &got); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an unknown question: %v", err)
	}
	if info, err := os.Stat(Socket(dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	if _, _, err := Listen(dir, mux); !errors.Is(err, ErrRunning) {
		t.Errorf("the second node: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := Fetch(t.Context(), dir, "status", &got); err == nil || !strings.Contains(err.Error(), "does it run") {
		t.Errorf("a stopped node: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	// What a killed process leaves behind is taken over.
	if err := os.WriteFile(Socket(dir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, release, err = Listen(dir, mux)
	if err != nil {
		t.Fatal(err)
	}
	s.listener.Close()
	if err := release(); err != nil {
		t.Error(err)
	}
}
