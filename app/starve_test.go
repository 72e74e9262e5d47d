package app

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/worker"
)

// Writes that never end do not keep a customer from being synced: they do not
// overtake a sync that began a moment ago. At the end, and after each answer, the
// mirror is right (I2, I4).
func TestI4_I9_WritesDoNotStarveSyncs(t *testing.T) {
	t.Parallel()
	onBoth(t, servedOptions{sim: ordered}, func(t *testing.T, s *served) {
		cus := s.customer()
		path := "/v1/customers/" + cus + "/balance_transactions"
		row := s.post(path, balanceForm("-1")).id(t)
		grant := s.post("/v1/billing/credit_grants", grantForm(cus, "100")).id(t)
		s.hook(func(_ string, r *http.Request) {
			if r.Method == http.MethodGet { // so that a sync takes longer than writes are apart
				select {
				case <-r.Context().Done():
				case <-time.After(30 * time.Millisecond):
				}
			}
		})
		var stop atomic.Bool
		var writes atomic.Int64
		var writers sync.WaitGroup
		for n := range 4 {
			writers.Go(func() {
				for i := 0; !stop.Load(); i++ {
					w := s.post(path, balanceForm("-1"))
					if w.status != 200 {
						t.Errorf("%d %s", w.status, w.body)
						return
					}
					if got := s.get(path + "/" + fmt.Sprint(w.object(t)["id"])); got.status != 200 {
						t.Errorf("not read after it was written: %d", got.status)
					}
					writes.Add(1)
					s.post(path+"/"+row, url.Values{"description": {fmt.Sprint(n, i)}})
					writes.Add(1)
					s.post("/v1/billing/credit_grants/"+grant, url.Values{"metadata[n]": {fmt.Sprint(n, i)}})
					writes.Add(1)
				}
			})
		}
		syncer := worker.NewSyncer(s.app.parts.Stripe.For(stripeapi.PurposeLive), s.app.parts.Store, s.app.parts.marks, s.app.parts.syncOptions(zap.NewNop()))
		for _, scope := range []mirror.Scope{mirror.ScopeBalance, mirror.ScopeCredits} {
			committed := 0
			const tries = 12
			for range tries {
				before := writes.Load()
				s.eventually(func() bool { return writes.Load() > before || t.Failed() }) // writes come to an end too
				_, err := syncer.Sync(t.Context(), mirror.Target{Scope: scope, ID: cus}, nil, true)
				switch {
				case err == nil:
					committed++
				case !errors.Is(err, mirror.ErrFenced):
					t.Error(err)
				}
			}
			t.Logf("%s: %d of %d syncs committed beside %d writes", scope, committed, tries, writes.Load())
			if committed < tries/2 {
				t.Errorf("%s: %d of %d syncs committed", scope, committed, tries)
			}
		}
		stop.Store(true)
		writers.Wait()
		s.agree(cus)
	})
}
