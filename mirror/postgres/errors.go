package postgres

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// advise adds what to do to errors of a start, which the server and the driver word for
// who knows them.
func advise(err error) error {
	var advice string
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	switch state := sqlState(err); {
	case err == nil:
		return nil
	case state == "28P01", state == "28000":
		advice = "the server refuses this user or password: correct the user, the password or pg_hba.conf"
	case state == "3D000":
		advice = "there is no such database on the server: make it with CREATE DATABASE, or correct the name"
	case state == "42501":
		advice = "the role may not do this: let it own the schema creditmirror, or run creditmirror migrate with a role that may"
	case state == "53300":
		advice = "the server has no connection left: raise max_connections, or lower CREDITMIRROR_WORKERS"
	case state == "57P03":
		advice = "the server starts or stops: wait for it"
	case state == "25006":
		advice = "the server is a standby or read-only: name the primary"
	case state == "" && connecting:
		advice = "the server does not answer: start it, or correct host, port and sslmode"
	default:
		return err
	}
	return fmt.Errorf("CREDITMIRROR_DATABASE_URL: %s: %w", advice, err)
}
