package simulation

import (
	"context"
	"database/sql"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
)

// keepDB copies the database as it is committed now.
func (w *world) keepDB() error {
	path := filepath.Join(w.folder, "kept.db")
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: w.dbFile}).String())
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(context.Background(), `VACUUM INTO ?`, path); err != nil {
		return err
	}
	w.oldDB = path
	return nil
}

// rewindDB puts the copy in place of the database: a standby that lagged is promoted.
func (w *world) rewindDB() error {
	if w.oldDB == "" {
		return nil
	}
	content, err := os.ReadFile(w.oldDB)
	if err != nil {
		return err
	}
	if err := w.closeDB(); err != nil {
		return err
	}
	if err := w.openDB(content); err != nil {
		return err
	}
	for _, l := range w.model.ledgers {
		l.deletedHere = false // the copy may be older than the deletion
	}
	w.touch("")
	return nil
}

// checkRead judges the answer to a read that asked for a fresh copy.
func (w *world) checkRead(l *ledger, had int, body []byte) {
	var c struct {
		Balance int64 `json:"balance"`
		Deleted bool  `json:"deleted"`
	}
	if err := json.Unmarshal(body, &c); err != nil {
		w.fail("api", "the API answers a read with what is no customer: %s", body)
		return
	}
	if c.Deleted || l.damaged || w.plan.lagging() || w.plan.has(featRewind) {
		return
	}
	for n := had; n <= len(l.rows); n++ {
		if sum(l.rows[:n])["usd"] == c.Balance {
			return
		}
	}
	w.fail("I12", "a read of %s that asked for a fresh copy got %d; with the %d rows of then it was %d, now with %d rows %d", l.name,
		c.Balance, had, sum(l.rows[:had])["usd"], len(l.rows), sum(l.rows)["usd"])
}
