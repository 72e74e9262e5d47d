package postgres

import (
	"context"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
)

func TestAudit(t *testing.T) {
	t.Parallel()
	mirrortest.RunAudit(t, func(t *testing.T) mirror.Store {
		url := newMirror(t)
		sql := openSQL(t, url)
		return &mirrortest.Harness{
			Store: openStore(t, url),
			Query: sql.query,
			Exec: func(ctx context.Context, statement string) error {
				_, err := sql.pool.Exec(ctx, statement)
				return err
			},
		}
	})
}
