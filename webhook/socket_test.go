package webhook

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/doors"
	"github.com/creditmirror/creditmirror/internal/patience"
)

// served is a bench behind a real socket.
type served struct {
	*bench
	addr string
}

// serve starts the server of NewServer with quicker bounds.
func serve(t *testing.T, conns int) *served {
	t.Helper()
	b := newBench(t, func(_ *bench, o *Options) { o.BodyTimeout = 150 * time.Millisecond })
	srv := NewServer("", b.handler, doors.Bounds{Conns: conns})
	srv.ReadHeaderTimeout = 150 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		// Not Close: it would leave handlers running, and the bench counts at its end.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return &served{bench: b, addr: l.Addr().String()}
}

func (s *served) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// head is a request's header; lines end in CRLF.
func head(lines ...string) string {
	return strings.Join(append([]string{"POST " + Path + " HTTP/1.1", "Host: evil"}, lines...), "\r\n") + "\r\n\r\n"
}

// code reads one answer; 0 when the connection ends without one.
func code(t *testing.T, c net.Conn) int {
	t.Helper()
	in := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return 0
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusContinue {
			return resp.StatusCode
		}
	}
}

// What arrives on the wire in forms that a client library would not send.
func TestRawRequests(t *testing.T) {
	t.Parallel()
	body := string(event("evt_1", customer))
	sig := "Stripe-Signature: " + sign([]byte(body), testClock, secret)
	length := fmt.Sprintf("Content-Length: %d", len(body))
	chunked := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(s), s) }
	for _, c := range []struct {
		name, send string
		code       int
	}{
		{"good", head(sig, length) + body, 200},
		{"good in chunks", head(sig, "Transfer-Encoding: chunked") + chunked(body), 200},
		{"good in absolute form", strings.Replace(head(sig, length), Path, "http://evil"+Path, 1) + body, 200},
		{"good by HTTP/1.0", strings.Replace(head(sig, length), "1.1", "1.0", 1) + body, 200},
		{"length and chunks", head(sig, length, "Transfer-Encoding: chunked") + "0\r\n\r\n" + body, 400},
		{"two lengths", head(sig, length, "Content-Length: 5") + body, 400},
		{"length too long", head(sig, fmt.Sprintf("Content-Length: %d", len(body)+5)) + body, 408},
		{"length too short", head(sig, fmt.Sprintf("Content-Length: %d", len(body)-1)) + body, 400},
		{"length negative", head(sig, "Content-Length: -1") + body, 400},
		{"unknown coding", head(sig, "Transfer-Encoding: xchunked") + chunked(body), 501},
		{"two codings", head(sig, "Transfer-Encoding: chunked, identity") + chunked(body), 501},
		{"bare LF chunk", head(sig, "Transfer-Encoding: chunked") + fmt.Sprintf("%x\n%s\n0\n\n", len(body), body), 400},
		{"chunk size not hex", head(sig, "Transfer-Encoding: chunked") + "zz\r\n", 400},
		{"chunk size huge", head(sig, "Transfer-Encoding: chunked") + "ffffffffffffffffff\r\n", 400},
		{"space before colon", head(sig, "Content-Length : 5") + body, 400},
		{"NUL in header", head(sig, "X: a\x00b", length) + body, 400},
		{"no host", "POST " + Path + " HTTP/1.1\r\n" + sig + "\r\n" + length + "\r\n\r\n" + body, 400},
		{"two signatures", head(sig, sig, length) + body, 400},
		{"folded signature", head("Stripe-Signature: t=1,\r\n v1=00", length) + body, 400},
		{"header of 32 KiB", head(sig, "X: "+strings.Repeat("x", 32<<10), length) + body, 431},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404},
		{"CONNECT", "CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404},
		{"TRACE", strings.Replace(head(), "POST", "TRACE", 1), 405},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404},
		{"two slashes", strings.Replace(head(sig, length), Path, "/"+Path, 1) + body, 404},
		{"dots", strings.Replace(head(sig, length), Path, "/x/.."+Path, 1) + body, 404},
		{"stalled body", head(sig, length) + body[:10], 408},
		{"stalled in a chunk", head(sig, "Transfer-Encoding: chunked") + "ff\r\nabc", 408},
		{"too long, nothing sent", head(sig, "Content-Length: 1048577"), 413},
		{"no body at all", head(sig, length), 408},
		{"expects, then silence", head(sig, length, "Expect: 100-continue"), 408},
		{"expects with no signature", head(length, "Expect: 100-continue"), 400},
		{"unknown expectation", head(sig, length, "Expect: x") + body, 417},
		{"stalled header", "POST " + Path + " HTTP/1.1\r\nHost: x\r\nStripe", 400},
		{"stalled unsigned body", head("Content-Length: 1000") + "x", 400},
		{"stalled body elsewhere", strings.Replace(head("Content-Length: 1000"), Path, "/x", 1) + "x", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, 100)
			conn := s.dial(t)
			began := time.Now()
			if _, err := io.WriteString(conn, c.send); err != nil {
				t.Fatal(err)
			}
			if got := code(t, conn); got != c.code {
				t.Errorf("code %d, want %d", got, c.code)
			}
			if took := time.Since(began); took > patience.Of(5*time.Second) {
				t.Errorf("took %v", took)
			}
			if wrote := s.writes() > 0; wrote != (c.code == 200) {
				t.Errorf("I16: wrote %v at code %d", wrote, c.code)
			}
		})
	}
}

// A connection that sent what nobody read ends; a good one is used again.
func TestConnectionReuse(t *testing.T) {
	t.Parallel()
	s := serve(t, 100)
	body := string(event("evt_1", customer))
	good := head("Stripe-Signature: "+sign([]byte(body), testClock, secret), fmt.Sprintf("Content-Length: %d", len(body))) + body
	forged := head("Stripe-Signature: t=1680216100,v1=00", fmt.Sprintf("Content-Length: %d", len(body))) + body
	unsigned := head("Content-Length: 1000") + "x"
	conn := s.dial(t)
	in := bufio.NewReader(conn)
	for i, step := range []struct {
		send string
		code int
	}{{good, 200}, {forged, 400}, {good, 200}, {"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", 404}, {unsigned, 400}} {
		io.WriteString(conn, step.send)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != step.code {
			t.Fatalf("step %d: %v %v", i, resp, err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.Close != (step.send == unsigned) {
			t.Errorf("step %d: announces the end: %v", i, resp.Close)
		}
	}
	began := time.Now()
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) || time.Since(began) > patience.Of(5*time.Second) {
		t.Errorf("after an unread body: %v after %v, want the end", err, time.Since(began))
	}
}

// flood writes n bytes as fast as they are taken and returns the answer's code.
func flood(t *testing.T, s *served, header string, n int64, chunked bool) int {
	t.Helper()
	conn := s.dial(t)
	answered := make(chan int, 1)
	go func() { answered <- code(t, conn) }()
	io.WriteString(conn, header)
	block := []byte(strings.Repeat("x", 64<<10))
	for sent := int64(0); sent < n; sent += int64(len(block)) {
		var err error
		if chunked {
			_, err = fmt.Fprintf(conn, "%x\r\n%s\r\n", len(block), block)
		} else {
			_, err = conn.Write(block)
		}
		if err != nil {
			break // the server has had enough
		}
	}
	return <-answered
}

// F33: 200 MB cost no more memory than the cap, whatever the header says.
//
// It measures the whole process and so does not run in parallel.
func TestHugeBodiesAreFlat(t *testing.T) {
	s := serve(t, 100)
	const huge = 200 << 20
	plausible := "Stripe-Signature: t=1680216100,v1=" + strings.Repeat("0", 64)
	for _, c := range []struct {
		name    string
		header  string
		chunked bool
		code    int
	}{
		{"unsigned", head(fmt.Sprintf("Content-Length: %d", huge)), false, 400},
		{"unsigned in chunks", head("Transfer-Encoding: chunked"), true, 400},
		{"forged", head(plausible, fmt.Sprintf("Content-Length: %d", huge)), false, 413},
		{"forged in chunks", head(plausible, "Transfer-Encoding: chunked"), true, 413},
		{"forged to nowhere", strings.Replace(head(plausible, "Transfer-Encoding: chunked"), Path, "/x", 1), true, 404},
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		if got := flood(t, s, c.header, huge, c.chunked); got != c.code {
			t.Errorf("%s: code %d, want %d", c.name, got, c.code)
		}
		runtime.ReadMemStats(&after)
		// All that was ever allocated, not only what is left: the sender's 64 KiB
		// blocks are in it too.
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
			t.Errorf("%s: allocated %d KiB", c.name, grown>>10)
		}
	}
	if s.writes() != 0 {
		t.Errorf("I16: %d writes", s.writes())
	}
}

// A body that trickles for ever ends at the deadline, not at its own end.
func TestNeverEndingBody(t *testing.T) {
	t.Parallel()
	s := serve(t, 100)
	conn := s.dial(t)
	io.WriteString(conn, head("Stripe-Signature: t=1680216100,v1=00", "Transfer-Encoding: chunked"))
	answered := make(chan int, 1)
	go func() { answered <- code(t, conn) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for {
		select {
		case <-tick.C:
			io.WriteString(conn, "1\r\nx\r\n") // fails once the server is gone
		case got := <-answered:
			if got != 408 || time.Since(began) > patience.Of(5*time.Second) {
				t.Errorf("code %d after %v", got, time.Since(began))
			}
			return
		}
	}
}

// Bodies that stall hold what they sent, not what they claim; and when all the
// memory is held, others get 503 instead of taking more.
func TestBodyMemory(t *testing.T) {
	t.Parallel()
	m := &bodyMemory{limit: 20 << 10}
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		body, err := m.read(r, maxBody)
		m.release(body)
		read <- err
	}()
	w.Write([]byte("x"))
	if held := m.held.Load(); held != firstRead {
		t.Errorf("a claim of 1 MiB with one byte sent holds %d", held)
	}
	w.Write(make([]byte, firstRead)) // asks for eight times as much
	body, err := m.read(strings.NewReader(strings.Repeat("x", 20<<10)), -1)
	if !errors.Is(err, errNoMemory) {
		t.Errorf("%v, want no memory", err)
	}
	m.release(body)
	w.CloseWithError(io.ErrUnexpectedEOF)
	if err := <-read; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	if held := m.held.Load(); held != 0 {
		t.Errorf("%d bytes held in the end", held)
	}

	b := newBench(t, func(_ *bench, o *Options) { o.MaxBodyMemory = 2 << 10 })
	long := event("evt_1", customer)
	long = append(long, strings.Repeat(" ", 4<<10)...)
	if w := b.post(long); w.Code != 503 || b.count(503, "overload") != 1 || b.writes() != 0 {
		t.Errorf("code %d without memory", w.Code)
	}
	if w := b.post(event("evt_1", customer)); w.Code != 200 {
		t.Errorf("code %d for one that fits", w.Code)
	}
}
