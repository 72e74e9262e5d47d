package postgres

import (
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/internal/pgtest"
)

// Whoever starts with a wrong URL learns which variable it is and what to do, and never
// the password.
func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.NewDatabase(t)
	server.Exec(t, "postgres", `CREATE ROLE weak LOGIN`)
	for name, c := range map[string]struct{ url, want string }{
		"no server":    {"postgres://me:Canary@127.0.0.1:1/x?sslmode=disable", "the server does not answer"},
		"no database":  {strings.Replace(url, "/test_", "/nowhere_", 1), "CREATE DATABASE"},
		"no such user": {strings.Replace(url, "pgtest@", "nobody:Canary@", 1), "refuses this user or password"},
		"no right":     {strings.Replace(url, "pgtest@", "weak@", 1), "the role may not"},
	} {
		err := openStore(t, c.url).Migrate(t.Context())
		if err == nil || !strings.Contains(err.Error(), "CREDITMIRROR_DATABASE_URL: ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "Canary") {
			t.Errorf("%s: %v, want the variable and %q", name, err, c.want)
		}
	}
}
