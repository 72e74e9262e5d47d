package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/creditmirror/creditmirror/mirror"
)

// Tables of another PostgreSQL lie in a schema of their own, so that they can
// never be taken for a mirror's. Each generation is one transaction.
const (
	tablesSchema = "creditmirror_export"
	// generationsTable keeps the manifests; its last row is the commit.
	generationsTable = tablesSchema + "._generations"
	// tablesLock keeps two mirrors from writing at once. The number means nothing.
	tablesLock = 0x637265646974
)

const (
	schemaTables = `SELECT table_name::text FROM information_schema.tables WHERE table_schema = '` + tablesSchema + `'`

	createGenerations = `CREATE SCHEMA IF NOT EXISTS ` + tablesSchema + `;
CREATE TABLE IF NOT EXISTS ` + generationsTable + ` (
    generation bigint PRIMARY KEY,
    manifest   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)`
	selectManifests   = `SELECT generation, manifest FROM ` + generationsTable + ` ORDER BY generation`
	selectLatest      = `SELECT generation, manifest FROM ` + generationsTable + ` ORDER BY generation DESC LIMIT 1`
	insertGeneration  = `INSERT INTO ` + generationsTable + ` (generation, manifest) VALUES ($1, $2)`
	unlimitedCopyTime = `SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`
)

// connectTables connects to the other PostgreSQL. Errors never hold the password.
func connectTables(ctx context.Context, l Location) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(l.url.String())
	if err != nil {
		return nil, fmt.Errorf("%w: it cannot be read as a PostgreSQL URL", ErrWrongURL)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "creditmirror export"
	}
	// Nothing is kept on the server between statements, which works behind a pooler too.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", l, errors.Unwrap(err))
	}
	return conn, nil
}

// checkTables returns ErrForeign where the schema is somebody else's.
func checkTables(ctx context.Context, conn *pgx.Conn) (exists bool, err error) {
	rows, err := conn.Query(ctx, schemaTables)
	if err != nil {
		return false, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if name == "_generations" {
			return true, nil
		}
	}
	if len(names) > 0 {
		return false, fmt.Errorf("schema %s %w, such as table %s: give a database of its own", tablesSchema, ErrForeign, names[0])
	}
	return false, nil
}

func scanManifest(row pgx.CollectableRow) (m Manifest, err error) {
	var generation int64
	var text string
	if err := row.Scan(&generation, &text); err != nil {
		return m, err
	}
	return decodeManifest(manifestKey(generation), []byte(text))
}

// runTables makes one generation in tables.
func (e *Exporter) runTables(ctx context.Context) (result Result, err error) {
	conn, err := connectTables(ctx, e.location)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	exists, err := checkTables(ctx, conn)
	if err != nil {
		return result, err
	}
	var parent *Manifest
	if exists {
		rows, err := conn.Query(ctx, selectLatest)
		if err != nil {
			return result, err
		}
		m, err := pgx.CollectExactlyOneRow(rows, scanManifest)
		switch {
		case err == nil:
			parent = &m
		case !errors.Is(err, pgx.ErrNoRows):
			return result, err
		}
	} else if _, err := conn.Exec(ctx, createGenerations); err != nil {
		return result, fmt.Errorf("make the schema %s; the role needs CREATE on the database: %w", tablesSchema, err)
	}
	return e.run(ctx, parent, nil, func(g *generation) error {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return g.apply(ctx, tx) })
		if err != nil {
			return fmt.Errorf("write generation %d to %s: %w", g.manifest.Generation, e.location, err)
		}
		return nil
	})
}

// apply writes one generation in a transaction.
func (g *generation) apply(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, unlimitedCopyTime); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(tablesLock)); err != nil {
		return err
	}
	text, err := g.manifest.encode()
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, insertGeneration, g.manifest.Generation, string(text)); err != nil {
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "23505" {
			err = fmt.Errorf("another exporter, of another mirror, was first: %w; give each mirror a database of its own", errExists)
		}
		return err
	}
	for _, s := range g.spools {
		if err := s.apply(ctx, tx, g.manifest.Kind == KindFull); err != nil {
			return fmt.Errorf("%s: %w", s.table.Name, err)
		}
	}
	return nil
}

func sqlType(k mirror.Kind) string {
	switch k {
	case mirror.KindInt:
		return "bigint"
	case mirror.KindBool:
		return "boolean"
	case mirror.KindTime:
		return "timestamptz"
	case mirror.KindJSON:
		return "json" // jsonb has no place for an escaped NUL
	default:
		return "text"
	}
}

// apply brings the rows of one table in.
func (s *spool) apply(ctx context.Context, tx pgx.Tx, full bool) error {
	name := tablesSchema + "." + s.table.Name
	var defined, added, key []string
	for i, c := range s.columns {
		column := pgx.Identifier{c.Name}.Sanitize()
		defined = append(defined, column+" "+sqlType(c.Kind))
		added = append(added, "ALTER TABLE "+name+" ADD COLUMN IF NOT EXISTS "+column+" "+sqlType(c.Kind))
		if i < s.table.Key {
			key = append(key, column)
		}
	}
	keys := strings.Join(key, ", ")
	create := "CREATE TABLE IF NOT EXISTS " + name + " (" + strings.Join(defined, ", ") + ", PRIMARY KEY (" + keys + "))"
	if _, err := tx.Exec(ctx, create+"; "+strings.Join(added, "; ")); err != nil {
		return err
	}
	into := pgx.Identifier{tablesSchema, s.table.Name}
	if full {
		// Not TRUNCATE: readers go on with what they had until this commits.
		if _, err := tx.Exec(ctx, "DELETE FROM "+name); err != nil {
			return err
		}
		return s.copyInto(ctx, tx, into)
	}
	if len(s.months) == 0 {
		return nil
	}
	into = pgx.Identifier{"incoming_" + s.table.Name}
	if _, err := tx.Exec(ctx, "CREATE TEMPORARY TABLE "+into.Sanitize()+" (LIKE "+name+") ON COMMIT DROP"); err != nil {
		return err
	}
	if err := s.copyInto(ctx, tx, into); err != nil {
		return err
	}
	var columns []string
	for _, c := range s.columns {
		columns = append(columns, pgx.Identifier{c.Name}.Sanitize())
	}
	list := strings.Join(columns, ", ")
	_, err := tx.Exec(ctx, "DELETE FROM "+name+" WHERE ("+keys+") IN (SELECT "+keys+" FROM "+into.Sanitize()+"); "+
		"INSERT INTO "+name+" ("+list+") SELECT "+list+" FROM "+into.Sanitize()+" WHERE _op = '"+opUpsert+"'")
	return err
}

func (s *spool) copyInto(ctx context.Context, tx pgx.Tx, into pgx.Identifier) error {
	names := make([]string, len(s.columns))
	for i, c := range s.columns {
		names[i] = c.Name
	}
	for _, month := range s.sortedMonths() {
		next, stop := iter.Pull2(s.rows(month))
		_, err := tx.CopyFrom(ctx, into, names, pgx.CopyFromFunc(func() ([]any, error) {
			row, err, ok := next()
			if !ok {
				return nil, nil
			}
			return row, err
		}))
		stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// rows are a month's rows as the driver takes them.
func (s *spool) rows(month string) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		err := s.each(month, func(row []mirror.Value) error {
			values := make([]any, len(row))
			for i, v := range row {
				switch {
				case v.Null:
				case s.columns[i].Kind == mirror.KindInt:
					values[i] = v.Int
				case s.columns[i].Kind == mirror.KindBool:
					values[i] = v.Int != 0
				case s.columns[i].Kind == mirror.KindTime:
					values[i] = timeOf(v)
				default:
					values[i] = string(bytes.ReplaceAll(v.Text, []byte{0}, nil)) // which PostgreSQL has no place for
				}
			}
			if !yield(values, nil) {
				return io.EOF
			}
			return nil
		}, func() error { return nil })
		if err != nil && !errors.Is(err, io.EOF) {
			yield(nil, err)
		}
	}
}

// tablesManifests connects and reads all manifests.
func tablesManifests(ctx context.Context, l Location) (*pgx.Conn, []Manifest, error) {
	conn, err := connectTables(ctx, l)
	if err != nil {
		return nil, nil, err
	}
	exists, err := checkTables(ctx, conn)
	if err != nil || !exists {
		return conn, nil, err
	}
	rows, err := conn.Query(ctx, selectManifests)
	if err != nil {
		return conn, nil, err
	}
	list, err := pgx.CollectRows(rows, scanManifest)
	return conn, list, err
}

func listTables(ctx context.Context, l Location) (list []Listed, err error) {
	conn, manifests, err := tablesManifests(ctx, l)
	if conn != nil {
		defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	}
	for _, m := range manifests {
		list = append(list, listed(m))
	}
	return list, err
}

// verifyTables adds the tables up and holds them against the newest manifest.
func verifyTables(ctx context.Context, l Location, m mirror.Feed) (v Verified, err error) {
	conn, manifests, err := tablesManifests(ctx, l)
	if conn != nil {
		defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	}
	if err != nil {
		return v, err
	}
	if len(manifests) == 0 {
		return v, fmt.Errorf("%s holds no generation yet", l)
	}
	for i := range manifests {
		v.Generations++
		if i > 0 {
			v.checkLink(&manifests[i-1], manifests[i])
		}
	}
	newest := manifests[len(manifests)-1]
	for name, want := range newest.Totals {
		tables, err := tablesNamed([]string{name})
		if err != nil {
			return v, err
		}
		got, err := tableTotals(ctx, conn, tables[0])
		if err != nil {
			return v, err
		}
		v.Rows += got.rows
		v.compare(newest, name, tablesSchema+"."+name, want, got)
	}
	v.Mirror, err = v.checkMirror(ctx, m, l, newest)
	return v, err
}

func tableTotals(ctx context.Context, conn *pgx.Conn, t table) (s stats, err error) {
	sum, currency := "NULL::text", "NULL::text"
	if t.amount >= 0 {
		sum, currency = "sum("+t.sum+")::text", "currency"
	}
	rows, err := conn.Query(ctx, "SELECT "+currency+", count(*), "+sum+" FROM "+tablesSchema+"."+t.Name+" GROUP BY 1")
	if err != nil {
		return s, err
	}
	var code, total *string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&code, &n, &total}, func() error {
		s.rows += n
		if code == nil || total == nil {
			return nil
		}
		amount, err := strconv.ParseInt(*total, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", *code, errSumOverflow)
		}
		return s.sum([]byte(*code), amount)
	})
	return s, err
}
