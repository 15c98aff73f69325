package main

import (
	"testing"

	"github.com/hotstage/hotstage/internal/store"
)

// TestJournalConforms: a node's leases, the journal before the file, are a store like any other.
func TestJournalConforms(t *testing.T) {
	dirs := map[string]string{}
	store.Conform(t, func(t *testing.T) store.Book {
		if dirs[t.Name()] == "" {
			dirs[t.Name()] = t.TempDir()
		}
		book, err := openLeases(dirs[t.Name()])
		if err != nil {
			t.Fatal(err)
		}
		return book
	})
}
