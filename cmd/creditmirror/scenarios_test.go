package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/stripesim"
)

// TestRollforwardOfTheShippedScenarios: three years of a company that sells credits in
// advance, and the other scenarios, close to the unit in every account, ledger and
// currency, and every line is what the simulator's own log adds up to.
func TestRollforwardOfTheShippedScenarios(t *testing.T) {
	t.Parallel()
	for _, name := range stripesim.Scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script, err := os.ReadFile(filepath.Join("..", "..", "stripesim", "scenarios", name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, string(script), 11)
			// Nobody can copy a customer that was deleted before.
			gone := map[string]bool{}
			for _, truth := range w.sim.Truth() {
				gone[truth.ID] = truth.Deleted
			}
			facts := slices.DeleteFunc(w.facts(t), func(f fact) bool { return gone[f.customer] })
			type book struct{ account, ledger, currency string }
			ends := map[book]int64{} // where the whole history ends
			first := time.Now().Unix()
			for _, f := range facts {
				ends[book{f.account, f.ledger, f.currency}] += f.amount
				first = min(first, f.at)
			}
			from := time.Unix(first, 0).UTC().AddDate(0, 0, -1).Format(time.DateOnly)
			to := time.Now().UTC().AddDate(0, 0, 2).Format(time.DateOnly)
			for database, environ := range mirrors(t, w) {
				t.Run(database, func(t *testing.T) {
					backfilled(t, environ)
					by := "month"
					if time.Since(time.Unix(first, 0)) < 60*24*time.Hour {
						by = "day"
					}
					checkRollforward(t, environ, facts, by, "UTC", from, to, map[string]int{"saas": 70, "marketplace": 20}[name])
					closings := map[book]int64{}
					for _, r := range table(t, environ, "rollforward", "--by", by, "--from", from, "--to", to) {
						if r[5] == "closing" {
							closings[book{r[0], r[1], r[2]}] = number(t, r[6])
						}
					}
					// A book that holds and moves nothing has no line, one without an end may have moved.
					same := func(a, b map[book]int64) bool {
						for k, v := range a {
							if v != b[k] {
								return false
							}
						}
						return true
					}
					if len(closings) < 2 || !same(ends, closings) || !same(closings, ends) {
						t.Errorf("books end at %v, the log at %v", closings, slices.Collect(maps.Keys(ends)))
					}
				})
			}
		})
	}
}
