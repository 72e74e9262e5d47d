package webhook

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// instant is a queue and inbox that cost nothing, so that the receiver's own
// cost is what is measured; slow makes each call take as long as an fsync.
type instant struct {
	slow  time.Duration
	calls atomic.Int64
}

func (q *instant) Mark(_ context.Context, m []Marking) ([]bool, error) {
	q.calls.Add(1)
	if q.slow > 0 {
		time.Sleep(q.slow)
	}
	return make([]bool, len(m)), nil
}

func (q *instant) RecordEvents(_ context.Context, e []mirror.Event) ([]mirror.Receipt, error) {
	return make([]mirror.Receipt, len(e)), nil
}

// bare only reads the body and checks the MAC: what no receiver can do without.
var bare = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		_, _, err = verify(body, r.Header, testClock)
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
})

// discard is a ResponseWriter that costs nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkReplies measures answers to a customer.updated of Stripe's size, in
// the process and over loopback, against the bare handler.
func BenchmarkReplies(b *testing.B) {
	payload, err := os.ReadFile("testdata/events/customer.updated.balance.json")
	if err != nil {
		b.Fatal(err)
	}
	q := &instant{}
	fsync := &instant{slow: time.Millisecond}
	handlers := []struct {
		name string
		q    *instant
	}{{"bare", nil}, {"receiver", q}, {"receiver with 1 ms marks", fsync}}
	for _, h := range handlers {
		handler := http.Handler(bare)
		if h.q != nil {
			handler = newBench(b, func(_ *bench, o *Options) { o.Queue, o.Inbox = h.q, h.q }).handler
		}
		b.Run("process/"+h.name, func(b *testing.B) {
			calls := startCalls(h.q)
			b.SetParallelism(64)
			b.ReportAllocs()
			signature := sign(payload, testClock, secret)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r, _ := http.NewRequest(http.MethodPost, Path, bytes.NewReader(payload))
					r.Header.Set("Stripe-Signature", signature)
					handler.ServeHTTP(&discard{header: make(http.Header)}, r)
				}
			})
			report(b, h.q, calls)
		})
		b.Run("loopback/"+h.name, func(b *testing.B) {
			calls := startCalls(h.q)
			overLoopback(b, handler, payload)
			report(b, h.q, calls)
		})
	}
}

func startCalls(q *instant) int64 {
	if q == nil {
		return 0
	}
	return q.calls.Load()
}

func report(b *testing.B, q *instant, before int64) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "replies/s")
	if q != nil {
		b.ReportMetric(float64(b.N)/float64(q.calls.Load()-before), "events/batch")
	}
}

// overLoopback posts over 64 keep-alive connections, with a client that costs
// next to nothing.
func overLoopback(b *testing.B, handler http.Handler, payload []byte) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	defer func() { srv.Close(); <-ended }()
	request := []byte(head("Stripe-Signature: "+sign(payload, testClock, secret), fmt.Sprintf("Content-Length: %d", len(payload))) + string(payload))
	b.SetParallelism(32) // times GOMAXPROCS
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		answer := make([]byte, 4<<10)
		for pb.Next() {
			if _, err := conn.Write(request); err != nil {
				b.Error(err)
				return
			}
			// One small answer comes in one piece.
			if n, err := conn.Read(answer); err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 200")) {
				b.Errorf("%q %v", answer[:n], err)
				return
			}
		}
	})
	b.StopTimer()
}
