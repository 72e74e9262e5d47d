package config

import (
	"strings"
	"testing"
)

func TestPlainLinks(t *testing.T) {
	t.Parallel()
	for environ, want := range map[string]string{
		"": "",
		"CREDITMIRROR_DATABASE_URL=postgres://u:p@db/x":                             "postgresql",
		"CREDITMIRROR_DATABASE_URL=postgres://u:p@db/x?sslmode=prefer":              "postgresql",
		"CREDITMIRROR_DATABASE_URL=postgres://u:p@db/x?sslmode=disable":             "postgresql",
		"CREDITMIRROR_DATABASE_URL=postgres://u:p@db/x?sslmode=verify-full":         "",
		"CREDITMIRROR_DATABASE_URL=postgres://u:p@db/x?sslmode=require":             "",
		"CREDITMIRROR_DATABASE_URL=postgres://u:p@127.0.0.1/x":                      "",
		"CREDITMIRROR_DATABASE_URL=postgres://u:p@localhost:5433/x?sslmode=disable": "",
		"CREDITMIRROR_DATABASE_URL=postgres:///x?host=/var/run/postgresql":          "",
		"CREDITMIRROR_DATABASE_URL=postgres:///x?host=db":                           "postgresql",
		"CREDITMIRROR_DATABASE_URL=postgres://u@127.0.0.1,db2/x":                    "postgresql",
		"CREDITMIRROR_REDIS_URL=redis://:p@r:6379/1":                                "redis",
		"CREDITMIRROR_REDIS_URL=rediss://:p@r:6379/1":                               "",
		"CREDITMIRROR_REDIS_URL=redis://[::1]:6379":                                 "",
		"CREDITMIRROR_REDIS_URL=redis+cluster://127.0.0.1:1,r2:2":                   "redis",
		"CREDITMIRROR_REDIS_URL=rediss+cluster://r1:1,r2:2":                         "",
	} {
		cfg, err := Load(strings.Fields(environ))
		if got := strings.Join(cfg.PlainLinks(), ","); err != nil || got != want {
			t.Errorf("%s: %q, want %q, %v", environ, got, want, err)
		}
	}
}
