package main

import (
	"testing"

	"github.com/hotstage/hotstage/internal/store"
	"github.com/hotstage/hotstage/internal/store/journal"
	"github.com/hotstage/hotstage/internal/store/sqlite"
)

// TestJournalConforms: a node's leases, the journal before the file, are a store like any other.
func TestJournalConforms(t *testing.T) {
	dirs := map[string]string{}
	store.Conform(t, func(t *testing.T) store.Book {
		if dirs[t.Name()] == "" {
			dirs[t.Name()] = t.TempDir()
		}
		file, err := sqlite.Open(leasesFile(dirs[t.Name()]))
		if err != nil {
			t.Fatal(err)
		}
		book, err := journal.Open(journalFile(dirs[t.Name()]), file)
		if err != nil {
			t.Fatal(err)
		}
		return book
	})
}
