package console

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/mirror"
)

// maxReason bounds a reason, in bytes.
const maxReason = 1000

func (c *Console) newAction(actor, addr string, kind mirror.ActionKind) mirror.OperatorAction {
	return mirror.OperatorAction{ID: "act_" + rand.Text(), Created: c.now().UTC().Truncate(time.Microsecond), Actor: actor, RemoteAddr: addr, Action: kind}
}

// acts serves an action: a POST of a page of ours, by a key that may act.
func (c *Console) acts(f func(*view) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !sameOrigin(r) {
			http.Error(w, "Actions are taken from the console's own pages.", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		c.seen(func(v *view) error {
			if v.holder == nil {
				return forbidden("Without API keys nothing can be done here. The commands can: see creditmirror --help.")
			}
			if err := v.r.ParseForm(); err != nil {
				return wrong("The form could not be read.")
			}
			if !v.holder.MayDo(access.Operate) {
				v.c.log.Warn("console action refused", zap.String("key_name", v.holder.Name), zap.String("remote_addr", v.caller), zap.String("path", v.r.URL.Path))
				return forbidden("This key may read but not act. Actions need a key with the right to write%s.",
					map[bool]string{true: ", and among its operations operate"}[v.holder.Write])
			}
			return f(v)
		})(w, r)
	}
}

// reason is why something is done, in the words of who does it.
func (v *view) reason(needed bool) (string, error) {
	text := strings.TrimSpace(v.r.PostForm.Get("reason"))
	switch {
	case text == "" && needed:
		return "", wrong("A reason is needed: whoever reads the record later was not here.")
	case len(text) > maxReason || !utf8.ValidString(text):
		return "", wrong("The reason is longer than %d bytes.", maxReason)
	}
	return text, nil
}

// act records an action, does it, and records what became of it. An action whose record
// cannot be written is not done.
func (v *view) act(a mirror.OperatorAction, do func(ctx context.Context) (count int64, detail string, err error)) error {
	recorded := v.c.newAction(v.holder.Name, v.caller, a.Action)
	recorded.Account, recorded.Customer, recorded.Object, recorded.Reason = a.Account, a.Customer, a.Object, a.Reason
	if err := v.c.o.Operations.BeginAction(v.r.Context(), recorded); err != nil {
		return fmt.Errorf("nothing was done: %w", err)
	}
	count, detail, err := do(v.r.Context())
	recorded.Count, recorded.Detail, recorded.Outcome = count, detail, mirror.ActionDone
	if err != nil {
		recorded.Outcome, recorded.Detail = mirror.ActionFailed, err.Error()
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(v.r.Context()), 5*time.Second)
	defer cancel()
	if endErr := v.c.o.Operations.EndAction(end, recorded); endErr != nil {
		v.c.log.Error("could not record the outcome of a console action", zap.String("action_id", recorded.ID), zap.Error(endErr))
	}
	v.c.log.Info("console action", zap.String("key_name", recorded.Actor), zap.String("remote_addr", recorded.RemoteAddr), zap.String("action", string(recorded.Action)),
		zap.String("account", recorded.Account), zap.String("customer_id", recorded.Customer), zap.String("object_id", recorded.Object),
		zap.String("outcome", string(recorded.Outcome)), zap.Int64("count", recorded.Count))
	return err
}

// back answers an action with the page to continue on, which shows what was done.
func (v *view) back(path, done string) error {
	u, err := url.Parse(localPath(path))
	if err != nil {
		return err
	}
	q := u.Query()
	q.Set("done", done)
	u.RawQuery = q.Encode()
	http.Redirect(v.w, v.r, u.String(), http.StatusSeeOther)
	return nil
}

// customerOf reads account and customer from the address, of those that the key may see.
func (v *view) customerOf() (account, id string, err error) {
	account, err = accountOf(v.r.PathValue("account"))
	if err != nil {
		return "", "", err
	}
	id = v.r.PathValue("id")
	if !mirror.ValidCustomerID(id) {
		return "", "", wrong("%q is no customer id.", id)
	}
	if !v.maySee(account) {
		return "", "", forbidden("This key may not see the account %s.", accountName(account))
	}
	return account, id, nil
}

// targets are the ledgers of a customer that the key may see.
func (v *view) targets(account, id string) []mirror.Target {
	var list []mirror.Target
	for _, l := range v.ledgers() {
		list = append(list, mirror.Target{Account: account, Scope: mirror.Scope(l), ID: id})
	}
	return list
}

func (v *view) syncCustomer() error {
	account, id, err := v.customerOf()
	if err != nil {
		return err
	}
	if v.c.o.Do.Sync == nil {
		return wrong("This process cannot reach the queue. Use creditmirror sync where serve runs.")
	}
	reason, err := v.reason(false)
	if err != nil {
		return err
	}
	targets := v.targets(account, id)
	err = v.act(mirror.OperatorAction{Account: account, Customer: id, Object: id, Reason: reason, Action: mirror.ActionSync},
		func(ctx context.Context) (int64, string, error) {
			return int64(len(targets)), "", v.c.o.Do.Sync(ctx, targets)
		})
	if err != nil {
		return err
	}
	to := customerPath(account, id)
	if p := v.r.PostForm.Get("back"); p != "" {
		to = p
	}
	return v.back(to, "A sync of the customer is enqueued: workers read it from Stripe now, ahead of sweeps.")
}

// errNotHere says that a process cannot do an action.
var errNotHere = errors.New("this process cannot do it")
