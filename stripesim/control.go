package stripesim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// trafficRun is the traffic that the control API shows and stops.
type trafficRun struct {
	t      *Traffic
	cancel context.CancelFunc
	done   chan struct{}
	err    error // after done
}

type trafficRequest struct {
	Seed            int64    `json:"seed"`
	Customers       int      `json:"customers"`
	Rate            float64  `json:"rate"`
	Changes         int      `json:"changes"`
	Accounts        []string `json:"accounts"`
	SilentEdits     bool     `json:"silent_edits"`
	OtherCurrencies bool     `json:"other_currencies"`
}

type trafficStatus struct {
	Running bool   `json:"running"`
	Changes int64  `json:"changes"`
	Error   string `json:"error,omitempty"`
}

func (s *Server) startTraffic(ctx context.Context, q trafficRequest) error {
	s.trafficMu.Lock()
	defer s.trafficMu.Unlock()
	if s.trafficRuns() {
		return errRefused("", "Traffic is already running.")
	}
	t, err := NewTraffic(s, TrafficOptions(q))
	if err != nil {
		return errInvalid("", "", "%v", err)
	}
	if err := t.Seed(ctx); err != nil {
		return err
	}
	s.runTraffic(t)
	return nil
}

// Drive runs seeded traffic until its end or that of ctx. The control API shows it
// and can stop it, which is no error. It is an error when other traffic runs.
func (s *Server) Drive(ctx context.Context, t *Traffic) error {
	s.trafficMu.Lock()
	if s.trafficRuns() {
		s.trafficMu.Unlock()
		return errors.New("traffic is already running")
	}
	run := s.runTraffic(t)
	s.trafficMu.Unlock()
	select {
	case <-ctx.Done():
		run.cancel()
		<-run.done
	case <-run.done:
	}
	return run.err
}

// trafficRuns and runTraffic are for who holds trafficMu.
func (s *Server) trafficRuns() bool {
	if s.traffic == nil {
		return false
	}
	select {
	case <-s.traffic.done:
		return false
	default:
		return true
	}
}

func (s *Server) runTraffic(t *Traffic) *trafficRun {
	run := &trafficRun{t: t, done: make(chan struct{})}
	var running context.Context
	running, run.cancel = context.WithCancel(s.closing)
	go func() {
		defer close(run.done)
		run.err = t.Run(running)
	}()
	s.traffic = run
	return run
}

func (s *Server) stopTraffic() {
	s.trafficMu.Lock()
	defer s.trafficMu.Unlock()
	if s.traffic != nil {
		s.traffic.cancel()
		<-s.traffic.done
	}
}

func (s *Server) trafficStatus() trafficStatus {
	s.trafficMu.Lock()
	defer s.trafficMu.Unlock()
	if s.traffic == nil {
		return trafficStatus{}
	}
	st := trafficStatus{Running: true, Changes: s.traffic.t.Done()}
	select {
	case <-s.traffic.done:
		st.Running = false
		if s.traffic.err != nil {
			st.Error = s.traffic.err.Error()
		}
	default:
	}
	return st
}

type keyRequest struct {
	Key   string   `json:"key"`
	State KeyState `json:"state"`
	Deny  []string `json:"deny,omitempty"`
}

type clockRequest struct {
	Virtual bool      `json:"virtual"`
	Now     time.Time `json:"now"`
}

type clockAdvance struct {
	By Duration  `json:"by"`
	To time.Time `json:"to"`
}

type seedRequest struct {
	Seed int64 `json:"seed"`
}

func (s *Server) serveState(w http.ResponseWriter, _ *http.Request) {
	b, err := s.stateBytes()
	if err != nil {
		writeControl(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	_, _ = w.Write(b)
}

// logPage is how many entries of the log one request gets unless it asks for
// another number.
const logPage = 1000

func (s *Server) serveLog(r *http.Request, _ none) (any, error) {
	n := map[string]int64{"after": 0, "limit": logPage}
	for _, name := range []string{"after", "limit"} {
		if v := r.URL.Query().Get(name); v != "" {
			i, err := strconv.ParseInt(v, 10, 64)
			if err != nil || i < 0 {
				return nil, errInvalid("parameter_invalid_integer", name, "Invalid integer: %s", v)
			}
			n[name] = i
		}
	}
	rows := s.Log(n["after"], int(min(n["limit"], 100*logPage)))
	if rows == nil {
		rows = []LogEntry{}
	}
	return rows, nil
}

// control adapts a function from a decoded request to a reply.
func control[Q any](f func(r *http.Request, q Q) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if r.Method == http.MethodPost || r.Method == http.MethodPut {
			if err := readControl(http.MaxBytesReader(w, r.Body, maxBody), &q, r.Method == http.MethodPut); err != nil {
				writeControl(w, nil, errInvalid("", "", "Invalid JSON: %v", err))
				return
			}
		}
		v, err := f(r, q)
		writeControl(w, v, err)
	}
}

// readControl decodes a body that is one JSON value. Without needed it may be
// empty: a PUT that says nothing must not replace what there is by nothing.
func readControl(body io.Reader, q any, needed bool) error {
	raw, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 && !needed {
		return nil
	}
	if len(raw) == 0 || string(raw) == "null" {
		return errors.New("the body is empty")
	}
	if !json.Valid(raw) {
		return errors.New("the body is not one JSON value")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	return dec.Decode(q)
}

func writeControl(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		e := asAPI(err)
		status, v = e.status, e.body()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if v == nil {
		v = struct{}{}
	}
	b, merr := marshal(v)
	if merr != nil {
		return
	}
	_, _ = w.Write(append(b, '\n'))
}

// none is the request of what takes no body.
type none struct{}

// bad turns an error about the request into a 400.
func bad(err error) error {
	if err == nil {
		return nil
	}
	return errInvalid("", "", "%v", err)
}

func (s *Server) controlHandler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /_sim/faults", control(func(*http.Request, none) (any, error) { return s.faults.get(), nil }))
	m.HandleFunc("PUT /_sim/faults", control(func(_ *http.Request, q Faults) (any, error) {
		if err := s.SetFaults(q); err != nil {
			return nil, bad(err)
		}
		return s.faults.get(), nil
	}))
	m.HandleFunc("GET /_sim/limits", control(func(*http.Request, none) (any, error) { return s.limits.Load(), nil }))
	m.HandleFunc("PUT /_sim/limits", control(func(_ *http.Request, q Limits) (any, error) { return q, bad(s.SetLimits(q)) }))
	m.HandleFunc("GET /_sim/switches", control(func(*http.Request, none) (any, error) { return s.Switches(), nil }))
	m.HandleFunc("PUT /_sim/switches", control(func(_ *http.Request, q json.RawMessage) (any, error) {
		sw := s.Switches() // those that are not named stay as they are
		if err := json.Unmarshal(q, &sw); err != nil {
			return nil, bad(err)
		}
		if err := s.SetSwitches(sw); err != nil {
			return nil, bad(err)
		}
		return s.Switches(), nil
	}))
	m.HandleFunc("GET /_sim/clock", control(func(*http.Request, none) (any, error) { return s.Clock(), nil }))
	m.HandleFunc("PUT /_sim/clock", control(func(_ *http.Request, q clockRequest) (any, error) {
		if !q.Virtual {
			if !q.Now.IsZero() {
				return nil, errInvalid("", "now", "Only a virtual clock can be set. To let the real one jump, advance it.")
			}
			s.ReleaseClock()
			return s.Clock(), nil
		}
		if err := s.FreezeClock(q.Now); err != nil {
			return nil, bad(err)
		}
		return s.Clock(), nil
	}))
	m.HandleFunc("POST /_sim/clock/advance", control(func(r *http.Request, q clockAdvance) (any, error) {
		by := time.Duration(q.By)
		if !q.To.IsZero() {
			if q.By != 0 {
				return nil, errInvalid("", "to", "You may only specify one of by and to.")
			}
			by = q.To.Sub(s.Clock().Now)
		}
		if err := s.AdvanceClock(r.Context(), by); err != nil {
			return nil, bad(err)
		}
		return s.Clock(), nil
	}))
	m.HandleFunc("GET /_sim/seed", control(func(*http.Request, none) (any, error) { return seedRequest{s.Seed()}, nil }))
	m.HandleFunc("PUT /_sim/seed", control(func(_ *http.Request, q seedRequest) (any, error) {
		s.stopTraffic()
		s.Reset(q.Seed)
		return q, nil
	}))
	m.HandleFunc("GET /_sim/state", s.serveState)
	m.HandleFunc("PUT /_sim/state", func(w http.ResponseWriter, r *http.Request) {
		s.stopTraffic()
		writeControl(w, map[string]bool{"loaded": true}, bad(s.Load(r.Body)))
	})
	m.HandleFunc("GET /_sim/log", control(s.serveLog))
	m.HandleFunc("GET /_sim/deliveries", control(func(r *http.Request, _ none) (any, error) {
		return s.Attempts(r.URL.Query().Get("event")), nil
	}))
	m.HandleFunc("POST /_sim/endpoints/{id}/roll", control(func(r *http.Request, q struct {
		Keep Duration `json:"keep"`
	},
	) (any, error) {
		secret, err := s.RollSecret(r.PathValue("id"), time.Duration(q.Keep))
		return map[string]string{"secret": secret}, err
	}))
	m.HandleFunc("POST /_sim/invoices/pay", control(func(_ *http.Request, q InvoiceUse) (any, error) {
		return result(s.PayInvoice(q.Account, q.Invoice, q.Amount))
	}))
	m.HandleFunc("GET /_sim/calls", control(func(*http.Request, none) (any, error) { return s.Calls(), nil }))
	m.HandleFunc("DELETE /_sim/calls", control(func(*http.Request, none) (any, error) {
		s.ResetCalls()
		return nil, nil
	}))
	m.HandleFunc("GET /_sim/endpoints", control(func(*http.Request, none) (any, error) { return s.Endpoints(), nil }))
	m.HandleFunc("GET /_sim/truth", s.serveTruth)
	m.HandleFunc("GET /_sim/settle", control(s.serveSettle))
	m.HandleFunc("POST /_sim/accounts", control(func(_ *http.Request, q struct {
		ID string `json:"id"`
	},
	) (any, error) {
		return q, bad(s.AddAccount(q.ID))
	}))
	m.HandleFunc("GET /_sim/keys", control(func(*http.Request, none) (any, error) { return s.keys.list(), nil }))
	m.HandleFunc("POST /_sim/keys", control(func(_ *http.Request, q keyRequest) (any, error) {
		return q, bad(s.SetKey(q.Key, q.State, q.Deny...))
	}))
	m.HandleFunc("POST /_sim/traffic", control(func(r *http.Request, q trafficRequest) (any, error) {
		if err := s.startTraffic(r.Context(), q); err != nil {
			return nil, err
		}
		return s.trafficStatus(), nil
	}))
	m.HandleFunc("GET /_sim/traffic", control(func(*http.Request, none) (any, error) { return s.trafficStatus(), nil }))
	m.HandleFunc("DELETE /_sim/traffic", control(func(*http.Request, none) (any, error) {
		s.stopTraffic()
		return s.trafficStatus(), nil
	}))
	m.HandleFunc("POST /_sim/invoices/apply_balance", control(func(_ *http.Request, q InvoiceUse) (any, error) { return result(s.ApplyBalance(q)) }))
	m.HandleFunc("POST /_sim/invoices/apply_credits", control(func(_ *http.Request, q InvoiceUse) (any, error) { return result(s.ApplyCredits(q)) }))
	m.HandleFunc("POST /_sim/invoices/unapply", control(func(_ *http.Request, q InvoiceUse) (any, error) {
		return result(s.UnapplyBalance(q.Account, q.Invoice))
	}))
	m.HandleFunc("POST /_sim/invoices/void", control(func(_ *http.Request, q InvoiceUse) (any, error) {
		return result(s.VoidInvoice(q.Account, q.Invoice))
	}))
	m.HandleFunc("POST /_sim/balance_transactions", control(func(_ *http.Request, q struct {
		Account  string `json:"account"`
		Customer string `json:"customer"`
		BalanceChange
	},
	) (any, error) {
		id, err := s.AddBalanceTransaction(q.Account, q.Customer, q.BalanceChange)
		return map[string]string{"id": id}, err
	}))
	m.HandleFunc("/_sim/", func(w http.ResponseWriter, r *http.Request) { writeControl(w, nil, errRoute(r.Method, r.URL.Path)) })
	return m
}

func result(r InvoiceResult, err error) (any, error) { return r, err }

func (s *Server) serveSettle(r *http.Request, _ none) (any, error) {
	timeout := 10 * time.Second
	if v := r.URL.Query().Get("timeout"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			return nil, bad(err)
		}
		timeout = d
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	if err := s.Settle(ctx); err != nil {
		return nil, &apiError{status: http.StatusGatewayTimeout, typ: "api_error", message: "Deliveries are still outstanding."}
	}
	return map[string]bool{"settled": true}, nil
}

// serveTruth writes customer after customer, so that the whole need not fit in
// memory twice.
func (s *Server) serveTruth(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	first := true
	_, _ = io.WriteString(w, "[")
	write := func(t CustomerTruth) bool {
		if q.Has("account") && t.Account != q.Get("account") {
			return true
		}
		sep := ",\n"
		if first {
			sep, first = "", false
		}
		_, err := io.WriteString(w, sep+string(mustMarshal(t)))
		return err == nil
	}
	if id := q.Get("customer"); id != "" {
		for _, a := range s.allAccounts() {
			if t, ok := s.CustomerTruth(a.id, id); ok {
				write(t)
			}
		}
	} else {
		s.EachTruth(write)
	}
	_, _ = io.WriteString(w, "]\n")
}

// list shows every key whose state was ever changed, masked.
func (k *keyring) list() []keyRequest {
	k.mu.RLock()
	defer k.mu.RUnlock()
	out := []keyRequest{}
	for key, state := range k.state {
		out = append(out, keyRequest{maskKey(key), state, k.deny[key]})
	}
	return out
}
