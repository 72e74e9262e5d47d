package export

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/internal/sqlitetest"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// A faultyS3 is an S3 behind a proxy that can do to each request what networks and
// stores do.
type faultyS3 struct {
	url   string
	store http.Handler
	// fault does something else with a request, or passes it on. nil: all are passed on.
	fault atomic.Pointer[func(w http.ResponseWriter, r *http.Request, pass func())]
}

func newFaultyS3(t *testing.T) *faultyS3 {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	s := &faultyS3{store: gofakes3.New(backend).Server()}
	behind := httptest.NewServer(s.store)
	t.Cleanup(behind.Close)
	target, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pass := func() { proxy.ServeHTTP(w, r) }
		if f := s.fault.Load(); f != nil {
			(*f)(w, r, pass)
			return
		}
		pass()
	}))
	t.Cleanup(front.Close)
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"} {
		t.Setenv(name, value)
	}
	s.url = "s3://bucket/copy?use_path_style=true&endpoint=" + front.URL
	return s
}

func s3Error(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
}

func cutOff(http.ResponseWriter, *http.Request, func()) { panic(http.ErrAbortHandler) }

// halfBody answers with the head of a whole answer and half of its body.
func halfBody(w http.ResponseWriter, r *http.Request, store http.Handler) {
	whole := httptest.NewRecorder()
	store.ServeHTTP(whole, r)
	for name, values := range whole.Header() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", fmt.Sprint(whole.Body.Len()))
	w.WriteHeader(whole.Code)
	_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// What a bucket does to an export is a clear error or no harm at all: never does a
// manifest list what is not there, and the next run brings the copy up to date.
func TestWhatABucketDoes(t *testing.T) {
	data := func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".parquet")
	}
	manifest := func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/_manifests/g")
	}
	reading := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/_manifests/g")
	}
	listing := func(r *http.Request) bool { return r.Method == http.MethodGet && r.URL.Query().Has("list-type") }
	hint := func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "latest.json")
	}
	every := func(*http.Request) bool { return true }
	answer := func(status int, code, message string) func(http.ResponseWriter, *http.Request, func()) {
		return func(w http.ResponseWriter, _ *http.Request, _ func()) { s3Error(w, status, code, message) }
	}
	// stored takes the object and loses the answer.
	stored := func(s *faultyS3) func(http.ResponseWriter, *http.Request, func()) {
		return func(_ http.ResponseWriter, r *http.Request, _ func()) {
			s.store.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
	}
	// late takes the object and answers after the client has gone.
	late := func(s *faultyS3) func(http.ResponseWriter, *http.Request, func()) {
		return func(_ http.ResponseWriter, r *http.Request, _ func()) {
			s.store.ServeHTTP(httptest.NewRecorder(), r)
			<-r.Context().Done()
		}
	}
	simple := func(f func(http.ResponseWriter, *http.Request, func())) func(*faultyS3) func(http.ResponseWriter, *http.Request, func()) {
		return func(*faultyS3) func(http.ResponseWriter, *http.Request, func()) { return f }
	}
	for _, test := range []struct {
		name  string
		which func(*http.Request) bool
		times int64 // how many requests it befalls; 0: all
		do    func(*faultyS3) func(http.ResponseWriter, *http.Request, func())
		short bool     // the client waits a short time only
		wants []string // of the error; none: the run succeeds
	}{
		{"latency", every, 0, simple(func(_ http.ResponseWriter, r *http.Request, pass func()) {
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Millisecond): // it is what is tested
			}
			pass()
		}), false, nil},
		{"one upload cut off", data, 1, simple(cutOff), false, nil},
		{"one upload cut off in its body", data, 1, simple(func(w http.ResponseWriter, r *http.Request, _ func()) {
			_, _ = io.CopyN(io.Discard, r.Body, 100)
			panic(http.ErrAbortHandler)
		}), false, nil},
		{"every upload cut off", data, 0, simple(cutOff), false, []string{"write ", ".parquet"}},
		{"an upload whose answer is lost", data, 1, stored, false, nil},
		{"the manifest cut off", manifest, 0, simple(cutOff), false, []string{"write _manifests/g"}},
		{"the manifest's answer lost", manifest, 1, stored, false, nil},
		{"the manifest's answer late", manifest, 0, late, true, []string{"does not answer"}},
		{"uploads answered late", data, 0, late, true, []string{"does not answer"}},
		{"lists answered late", listing, 0, late, true, []string{"does not answer"}},
		{"a manifest cut off while it is read", reading, 0, func(s *faultyS3) func(http.ResponseWriter, *http.Request, func()) {
			return func(w http.ResponseWriter, r *http.Request, _ func()) { halfBody(w, r, s.store) }
		}, false, []string{"read _manifests/g", "unexpected EOF"}},
		{"500 once", every, 1, simple(answer(500, "InternalError", "try again")), false, nil},
		{"500 always", data, 0, simple(answer(500, "InternalError", "try again")), false, []string{"InternalError"}},
		{"SlowDown once", data, 1, simple(answer(503, "SlowDown", "reduce your request rate")), false, nil},
		{"SlowDown always", data, 0, simple(answer(503, "SlowDown", "reduce your request rate")), false, []string{"SlowDown", "reduce your request rate"}},
		{"writes denied", data, 0, simple(answer(403, "AccessDenied", "no")), false, []string{"denies it", "rights"}},
		{"the manifest denied", manifest, 0, simple(answer(403, "AccessDenied", "no")), false, []string{"denies it", "_manifests/g"}},
		{"lists denied", listing, 0, simple(answer(403, "AccessDenied", "no")), false, []string{"denies it", "list"}},
		{"the bucket is full", data, 0, simple(answer(507, "InsufficientStorage", "the quota is used up")), false, []string{"the quota is used up"}},
		{"full for the manifest alone", manifest, 0, simple(answer(507, "InsufficientStorage", "the quota is used up")), false, []string{"the quota is used up"}},
		{"no such bucket", every, 0, simple(answer(404, "NoSuchBucket", "there is none")), false, []string{"NoSuchBucket"}},
		{"the hint alone", hint, 0, simple(answer(403, "AccessDenied", "no")), false, []string{"latest.json"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			whatABucketDoes(t, test.which, test.times, test.do, test.short, test.wants)
		})
	}
}

func whatABucketDoes(t *testing.T, which func(*http.Request) bool, times int64, do func(*faultyS3) func(http.ResponseWriter, *http.Request, func()), short bool, wants []string) {
	s, _ := sqlitetest.Open(t)
	bucketOf := newFaultyS3(t)
	e := newExporter(t, s, bucketOf.url, Options{})
	h := newHistory(t, s, 41)
	more := func() {
		for range 4 {
			h.step()
		}
	}
	more()
	if _, err := e.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	more()
	p, err := e.location.openPlace(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	b := p.(bucket) //nolint:forcetypeassert // of an s3 URL
	if short {
		b.small, b.file = 300*time.Millisecond, 300*time.Millisecond
	}
	var seen atomic.Int64
	fault := do(bucketOf)
	hook := func(w http.ResponseWriter, r *http.Request, pass func()) {
		if which(r) && (times == 0 || seen.Load() < times) {
			seen.Add(1)
			fault(w, r, pass)
			return
		}
		pass()
	}
	bucketOf.fault.Store(&hook)
	ctx, cancel := context.WithTimeout(t.Context(), patience.Of(time.Minute))
	defer cancel()
	_, err = e.runFiles(ctx, b)
	bucketOf.fault.Store(nil)
	if seen.Load() == 0 {
		t.Fatal("it befell no request")
	}
	if (err == nil) != (len(wants) == 0) {
		t.Fatalf("the run: %v; want %q", err, wants)
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error has the key: %v", err)
	}
	// What is published is whole.
	v, err := Verify(t.Context(), e.location, nil, nil)
	if err != nil || len(v.Differences) > 0 {
		t.Errorf("after the fault: %+v, %v", v, err)
	}
	more()
	r, err := e.Run(t.Context())
	if err != nil || r.Manifest == nil || r.Manifest.Kind != KindIncremental {
		t.Fatalf("the next run: %+v, %v", r, err)
	}
	if v, err = Verify(t.Context(), e.location, s, nil); err != nil || len(v.Differences) > 0 || v.Mirror != "compared" {
		t.Errorf("after the next run: %+v, %v", v, err)
	}
	c, err := readChain(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	sameRows(t, replay(t, p, c), held(t, s))
}

// Another exporter, of another mirror, publishes the generation while this one is
// about to: one of them wins, the other says so and begins anew.
func TestAnotherMirrorPublishesFirst(t *testing.T) {
	s, _ := sqlitetest.Open(t)
	other, _ := sqlitetest.Open(t)
	bucketOf := newFaultyS3(t)
	e, rival := newExporter(t, s, bucketOf.url, Options{}), newExporter(t, other, bucketOf.url, Options{})
	h, hers := newHistory(t, s, 51), newHistory(t, other, 52)
	for range 5 {
		h.step()
		hers.step()
	}
	var began atomic.Bool
	hook := func(_ http.ResponseWriter, r *http.Request, pass func()) {
		if strings.Contains(r.URL.Path, "/_manifests/g000001") && r.Method == http.MethodPut && began.CompareAndSwap(false, true) {
			if _, err := rival.Run(context.WithoutCancel(r.Context())); err != nil {
				t.Errorf("the rival: %v", err)
			}
		}
		pass()
	}
	bucketOf.fault.Store(&hook)
	if _, err := e.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another exporter") || !strings.Contains(err.Error(), "a place of its own") {
		t.Fatalf("who lost: %v", err)
	}
	if v, err := Verify(t.Context(), rival.location, other, nil); err != nil || len(v.Differences) > 0 || v.Mirror != "compared" {
		t.Errorf("who won: %+v, %v", v, err)
	}
	r, err := e.Run(t.Context())
	if err != nil || r.Manifest.Kind != KindFull || r.Why == "" {
		t.Fatalf("the next run: %+v, %v", r, err)
	}
	if v, err := Verify(t.Context(), e.location, s, nil); err != nil || len(v.Differences) > 0 || v.Mirror != "compared" {
		t.Errorf("after it: %+v, %v", v, err)
	}
}

// Without credentials, or in a bucket of an unknown kind, the error says so.
func TestMissingCredentials(t *testing.T) {
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN",
		"GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING",
	} {
		t.Setenv(name, "")
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("AWS_CONFIG_FILE", home+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", home+"/none")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_DEFAULT_REGION", "")
	// No machine's own account is asked for.
	nobody := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(nobody.Close)
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(nobody.URL, "http://"))
	s, _ := sqlitetest.Open(t)
	for url, want := range map[string]string{
		"s3://bucket/copy?use_path_style=true&endpoint=" + nobody.URL: "credentials",
		"gs://bucket/copy":        "credentials",
		"azblob://container/copy": "no credentials were found",
		"s3://bucket/copy?frob=1": "frob",
		"s3://nowhere/copy":       "AWS_REGION",
	} {
		region := "us-east-1"
		if strings.Contains(url, "nowhere") {
			region = ""
			t.Setenv("AWS_ACCESS_KEY_ID", "id")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
		}
		t.Setenv("AWS_REGION", region)
		ctx, cancel := context.WithTimeout(t.Context(), patience.Of(time.Minute))
		_, err := newExporter(t, s, url, Options{}).Run(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", url, err, want)
		}
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	}
}

// What fails in the middle of its body is not published, whatever the store: closing an
// upload would publish the half of it.
func TestHalfABodyIsNotPublished(t *testing.T) {
	s := newFaultyS3(t)
	l, err := ParseURL(s.url)
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.openPlace(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk is broken")
	for _, size := range []int{0, 100, partSize + 100} {
		body := io.MultiReader(bytes.NewReader(make([]byte, size)), iotest.ErrReader(broken))
		if err := p.create(t.Context(), "customers/month=2026-01/g000001-0001.parquet", body); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", size, err)
		}
	}
	if err := p.list(t.Context(), "", func(o object) error { return fmt.Errorf("%s was published", o.key) }); err != nil {
		t.Error(err)
	}
}

// A mirror that was restored from a backup has lost what the copy has: the copy is
// made anew, and says why.
func TestAMirrorRestoredFromABackup(t *testing.T) {
	for name, open := range map[string]func(*testing.T) (store, func() func() store){"sqlite": backedUpFile, "postgres": backedUpServer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, backUp := open(t)
			dir := t.TempDir()
			h := newHistory(t, first, 71)
			step := func(s store) Result {
				t.Helper()
				for range 4 {
					h.step()
				}
				r, err := newExporter(t, s, dir, Options{}).Run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			step(first)
			restores := []func() store{backUp(), backUp()}
			atBackup := *h
			for i, lost := range []int{1, 2} { // generations that the backup does not know of
				for range lost {
					step(first)
				}
				restored := restores[i]()
				again := atBackup
				again.ledgers, again.s, again.random = nil, restored, rand.New(rand.NewPCG(uint64(i), 7)) // not a secret
				h = &again
				r := step(restored)
				if r.Manifest.Kind != KindFull || !strings.Contains(r.Why, "restored") {
					t.Errorf("after the loss of %d generations: %s because of %q", lost, r.Manifest.Kind, r.Why)
				}
				p, err := openFolder(dir, false)
				if err != nil {
					t.Fatal(err)
				}
				c, err := readChain(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				sameRows(t, replay(t, p, c), held(t, restored))
				if v, err := Verify(t.Context(), Location{scheme: "file", path: dir}, restored, nil); err != nil || len(v.Differences) > 0 {
					t.Errorf("%+v, %v", v, err)
				}
				if r := step(restored); r.Manifest.Kind != KindIncremental {
					t.Errorf("after a full one: %s because of %q", r.Manifest.Kind, r.Why)
				}
				first = restored
			}
		})
	}
}

// backedUpFile opens a mirror in SQLite. Each backup of it can be restored.
func backedUpFile(t *testing.T) (store, func() func() store) {
	s, path := sqlitetest.Open(t)
	return s, func() func() store {
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		backup := filepath.Join(t.TempDir(), "backup.db")
		if _, err := db.ExecContext(t.Context(), "VACUUM INTO ?", backup); err != nil {
			t.Fatal(err)
		}
		return func() store {
			if err := os.Chmod(backup, 0o600); err != nil {
				t.Fatal(err)
			}
			restored, err := sqlite.Open(t.Context(), backup, sqlite.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = restored.Close() })
			return restored
		}
	}
}

// backedUpServer opens a mirror in PostgreSQL. A backup is a copy of the server, which
// counts on from its own transactions when it is restored.
func backedUpServer(t *testing.T) (store, func() func() store) {
	server := pgtest.Start(t)
	database := server.NewDatabase(t)
	name, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	connect := func(url string) store {
		s, err := postgres.Open(t.Context(), url, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		if err := s.Migrate(t.Context()); err != nil { // as every start does
			t.Fatal(err)
		}
		return s
	}
	return connect(database), func() func() store {
		backup := server.Standby(t)
		backup.Cut(t)
		return func() store {
			backup.Promote(t)
			return connect(backup.URL(strings.TrimPrefix(name.Path, "/")))
		}
	}
}

// Columns that were added go on incrementally; others that changed ask for a full one.
func TestASchemaNewerThanTheCopy(t *testing.T) {
	s, _ := sqlitetest.Open(t)
	e := newExporter(t, s, t.TempDir(), Options{Tables: []string{"customers"}})
	columns := e.tables[0].manifestColumns()
	for _, test := range []struct {
		name    string
		columns []Column
		full    bool
	}{
		{"the same", columns, false},
		{"one was added since", slices.Delete(slices.Clone(columns), 3, 4), false},
		{"one is gone", append(slices.Clone(columns), Column{"gone", "string"}), true},
		{"another type", append(slices.Delete(slices.Clone(columns), 3, 4), Column{columns[3].Name, "boolean"}), true},
	} {
		why := e.schemaChange(Manifest{Tables: map[string]TableManifest{"customers": {Columns: test.columns}}})
		if (why != "") != test.full {
			t.Errorf("%s: %q", test.name, why)
		}
	}
}

// The clocks of the process and of the bucket disagree by days: nothing of an export
// under way is taken for left behind, and generations stay in order.
func TestClocksThatDisagree(t *testing.T) {
	s, _ := sqlitetest.Open(t)
	h := newHistory(t, s, 61)
	dir := t.TempDir()
	now := time.Now()
	var positions []int64
	for _, clock := range []time.Duration{0, -72 * time.Hour, 72 * time.Hour, 0} {
		for range 4 {
			h.step()
		}
		e := newExporter(t, s, dir, Options{Now: func() time.Time { return now.Add(clock) }})
		r, err := e.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(positions) > 0 && (r.Manifest.Kind != KindIncremental || r.Manifest.Position <= positions[len(positions)-1]) {
			t.Errorf("with the clock off by %s: %+v", clock, r.Manifest)
		}
		positions = append(positions, r.Manifest.Position)
	}
	e := newExporter(t, s, dir, Options{})
	p, err := openFolder(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.create(t.Context(), "customers/month=2026-01/g000009-0001.parquet", bytes.NewReader([]byte("under way"))); err != nil {
		t.Fatal(err)
	}
	// A clock that is behind sees objects of the future.
	if pruned, err := Prune(t.Context(), e.location, false, now.Add(-72*time.Hour)); err != nil || pruned.Leftovers > 0 || pruned.Young != 1 {
		t.Errorf("what another exporter is writing was removed, or is not counted as young: %+v, %v", pruned, err)
	}
	if pruned, err := Prune(t.Context(), e.location, true, now.Add(25*time.Hour)); err != nil || pruned.Leftovers != 1 || pruned.Young != 0 {
		t.Errorf("after a day: %+v, %v", pruned, err)
	}
	if v, err := Verify(t.Context(), e.location, s, nil); err != nil || len(v.Differences) > 0 || v.Unlisted != 1 {
		t.Errorf("%+v, %v", v, err)
	}
}
