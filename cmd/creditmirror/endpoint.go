package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/endpoint"
	"github.com/creditmirror/creditmirror/mirror"
)

// webhookPath is where the receiver listens.
const webhookPath = "/webhooks/stripe"

type endpointOptions struct {
	url, account, secretFile string
	connect, asJSON, thin    bool
	finish, force            bool
}

func newEndpoint(e *env) *cobra.Command {
	c := &cobra.Command{
		Use:   "endpoint",
		Short: "Register, check and rotate the webhook endpoint at Stripe",
		Long: lines(
			"Works on Stripe's webhook endpoints with STRIPE_API_KEY, which needs write access to",
			"Webhook Endpoints (and read access to Events for check and rotate). The key that serve",
			"runs with does not need it.",
			"",
			"  creditmirror endpoint create --url https://mirror.example.com/webhooks/stripe --secret-file whsec",
			"  creditmirror endpoint check  --url https://mirror.example.com/webhooks/stripe",
			"",
			"Exits 1 when something is wrong with the endpoint, or Stripe refuses."),
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%w: endpoint: say create, list, check, delete or rotate", errUsage)
		},
	}
	c.AddCommand(endpointCreate(e), endpointList(e), endpointCheck(e), endpointDelete(e), endpointRotate(e))
	return c
}

// endpointCommand adds what the sub-commands have in common. The work gets a
// Service and what is wanted.
func endpointCommand(e *env, c *cobra.Command, o *endpointOptions, needsURL bool, work func(ctx context.Context, s *endpoint.Service, w endpoint.Wanted) error) *cobra.Command {
	return endpointCommandWith(e, c, o, needsURL, func(ctx context.Context, _ config.Config, s *endpoint.Service, w endpoint.Wanted) error {
		return work(ctx, s, w)
	})
}

// endpointCommandWith is endpointCommand for work that wants the configuration, too.
func endpointCommandWith(e *env, c *cobra.Command, o *endpointOptions, needsURL bool, work func(ctx context.Context, cfg config.Config, s *endpoint.Service, w endpoint.Wanted) error) *cobra.Command {
	overrides := config.Bind(c.Flags(), config.VarStripeAPIKey, config.VarStripeAPIBase, config.VarStripeAPIVersion)
	c.Flags().StringVar(&o.account, "account", "", "the connected account (acct_…) whose own endpoint it is (default: the platform's)")
	c.Flags().BoolVar(&o.thin, "thin", false, "an event destination of thin events (Stripe's v2 API) instead of a webhook endpoint of snapshot events")
	if needsURL {
		c.Flags().StringVar(&o.url, "url", "", "where Stripe reaches the receiver, such as https://mirror.example.com"+webhookPath)
		c.Flags().BoolVar(&o.connect, "connect", false, "the endpoint for the events of all connected accounts")
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(needsURL); err != nil {
			return err
		}
		cfg, err := config.LoadUsed(e.environ, []config.Role{config.RoleReconcile}, overrides) // a role that needs the key
		if err != nil {
			return err
		}
		client, err := app.OpenStripe(cfg)
		if err != nil {
			return err
		}
		defer client.Close()
		return work(cmd.Context(), cfg, endpoint.New(client), endpoint.Wanted{
			URL: o.url, Account: o.account, Connect: o.connect, Thin: o.thin,
			Version: cfg.StripeAPIVersion, Livemode: cfg.Mode() == config.ModeLive,
		})
	}
	return c
}

func (o *endpointOptions) check(needsURL bool) error {
	if o.account != "" && !mirror.ValidAccountID(o.account) {
		return fmt.Errorf("%w: --account %q: want acct_…", errUsage, o.account)
	}
	if !needsURL {
		return nil
	}
	u, err := url.Parse(o.url)
	switch {
	case o.url == "":
		return fmt.Errorf("%w: --url is required: where Stripe reaches the receiver", errUsage)
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%w: --url %q: want https://HOST%s", errUsage, o.url, webhookPath)
	case u.Path != webhookPath:
		return fmt.Errorf("%w: --url %q: the receiver serves %s only; a proxy that maps another path to it is refused here on purpose", errUsage, o.url, webhookPath)
	}
	return nil
}

const secretFileHelp = "write the signing secret to this file, before those that it holds already (default: print it)"

func endpointCreate(e *env) *cobra.Command {
	var o endpointOptions
	c := &cobra.Command{
		Use: "create", Short: "Create the endpoint, or repair the existing one", Args: cobra.NoArgs,
		Long: lines(
			"Registers exactly the event types that the mirror needs, at the API version that reads are",
			"pinned to, and prints the signing secret (alone, on standard output), which Stripe shows only",
			"this once. An existing endpoint gets the types that it lacks, and is",
			"enabled again; its secret is not shown. Running it twice changes nothing.",
			"",
			"With --thin it is an event destination (Stripe's v2 API) of the thin twins of these types, which",
			"Stripe makes since 2026-09-30.endive. They name what changed and carry nothing of it. An event",
			"that comes by both is taken once; check says when both kinds deliver to one URL. The key that",
			"serve runs with then needs read access to Invoices and Credit notes as well."),
	}
	c.Flags().StringVar(&o.secretFile, "secret-file", "", secretFileHelp)
	return endpointCommand(e, c, &o, true, func(ctx context.Context, s *endpoint.Service, w endpoint.Wanted) error {
		keep, err := o.keep(e)
		if err != nil {
			return err
		}
		made, err := s.Create(ctx, w, keep)
		if err != nil {
			return err
		}
		switch {
		case made.Created:
			fmt.Fprintf(e.err, "%s created for %s\n", made.Endpoint.ID, w.URL)
		default:
			fmt.Fprintf(e.err, "%s exists already; its secret is in Stripe's dashboard, or create a new one with endpoint rotate\n", made.Endpoint.ID)
			for what, types := range map[string][]string{"added": made.Added, "removed": made.Removed} {
				if len(types) > 0 {
					fmt.Fprintf(e.err, "%s: %s\n", what, strings.Join(types, ", "))
				}
			}
			if made.Enabled {
				fmt.Fprintln(e.err, "it was disabled and is enabled now")
			}
		}
		return nil
	})
}

// keep says where secrets go. A file is tried before Stripe is asked for a secret
// that it shows only once.
func (o *endpointOptions) keep(e *env) (endpoint.Keep, error) {
	if o.secretFile == "" {
		return func(secret string) error {
			_, err := fmt.Fprintln(e.out, secret)
			return err
		}, nil
	}
	held, err := readSecrets(o.secretFile)
	if err != nil {
		return nil, fmt.Errorf("--secret-file: %w", err)
	}
	if err := writeSecrets(o.secretFile+".new", held); err != nil {
		return nil, fmt.Errorf("--secret-file: %w", err)
	}
	if err := os.Remove(o.secretFile + ".new"); err != nil {
		return nil, fmt.Errorf("--secret-file: %w", err)
	}
	return func(secret string) error {
		return writeSecrets(o.secretFile, append([]string{secret}, held...))
	}, nil
}

// readSecrets reads the comma separated list that STRIPE_WEBHOOK_SECRET_FILE takes.
func readSecrets(path string) ([]string, error) {
	text, err := os.ReadFile(path) // #nosec G304 -- the path is the user's
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []string
	for s := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		if s = strings.TrimSpace(s); s != "" {
			list = append(list, s)
		}
	}
	return list, err
}

// writeSecrets replaces the file in one step: a receiver that starts meanwhile
// reads the old list or the new one.
func writeSecrets(path string, list []string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".secret-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(list, ",") + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func endpointList(e *env) *cobra.Command {
	var o endpointOptions
	c := &cobra.Command{Use: "list", Short: "List all webhook endpoints of the account, with --thin its event destinations", Args: cobra.NoArgs}
	c.Flags().BoolVar(&o.asJSON, "json", false, "print as JSON")
	return endpointCommand(e, c, &o, false, func(ctx context.Context, s *endpoint.Service, w endpoint.Wanted) error {
		all, _, err := s.List(ctx, w.Account, w.Thin)
		if err != nil {
			return err
		}
		if o.asJSON {
			return printJSON(e.out, endpointObjects(all))
		}
		t := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ID\tSTATUS\tVERSION\tCREATED\tEVENTS\tURL")
		for _, r := range all {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", r.ID, r.Status, orDash(r.APIVersion), r.Created.UTC().Format(time.RFC3339), len(r.EnabledEvents), cell(r.URL))
		}
		return t.Flush()
	})
}

// endpointObject is an endpoint in JSON, by Stripe's names.
type endpointObject struct {
	ID            string            `json:"id"`
	URL           string            `json:"url"`
	Status        string            `json:"status"`
	APIVersion    string            `json:"api_version"`
	EnabledEvents []string          `json:"enabled_events"`
	Metadata      map[string]string `json:"metadata"`
	Created       string            `json:"created"`
}

func endpointObjects(all []endpoint.Endpoint) []endpointObject {
	list := make([]endpointObject, 0, len(all))
	for _, r := range all {
		list = append(list, endpointObject{r.ID, r.URL, r.Status, r.APIVersion, r.EnabledEvents, r.Metadata, r.Created.UTC().Format(time.RFC3339)})
	}
	return list
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func endpointCheck(e *env) *cobra.Command {
	var o endpointOptions
	c := &cobra.Command{
		Use: "check", Short: "Report missing event types, failed deliveries and clock skew", Args: cobra.NoArgs,
		Long: lines(
			"Compares the endpoint with what the mirror needs: is it there and enabled, has it every event",
			"type, an API version that knows billing credits, does this host's clock agree with Stripe's,",
			"and were the events of the last 24 hours delivered. Where they were not, it says what the mirror",
			"knows of why: CREDITMIRROR_DATABASE_URL, or the serve at CREDITMIRROR_OPS_ADDR, is asked for",
			"what its receivers refused. Changes nothing; exits 1 on a problem."),
	}
	c.Flags().BoolVar(&o.asJSON, "json", false, "print as JSON")
	return endpointCommandWith(e, c, &o, true, func(ctx context.Context, cfg config.Config, s *endpoint.Service, w endpoint.Wanted) error {
		findings, err := s.Check(ctx, w)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(findings, func(f endpoint.Finding) bool { return f.Problem && f.About == "deliveries" }) {
			findings = append(findings, causes(ctx, cfg, w.URL)...)
		}
		problems := 0
		for _, f := range findings {
			if f.Problem {
				problems++
			}
		}
		if o.asJSON {
			err = printJSON(e.out, findings)
		} else {
			t := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
			for _, f := range findings {
				fmt.Fprintf(t, "%s\t%s\t%s\n", map[bool]string{true: "PROBLEM", false: "ok"}[f.Problem], f.About, cell(f.Text))
			}
			err = t.Flush()
		}
		if err == nil && problems > 0 {
			return errFound
		}
		return err
	})
}

// causes are the likely reasons why deliveries fail, by what the mirror knows.
func causes(ctx context.Context, cfg config.Config, address string) []endpoint.Finding {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	elsewhere := "Stripe does not reach it: the name or port of " + address + ", a firewall, a proxy, a certificate, or no serve with the role webhook behind it"
	status, err := readStatus(ctx, cfg)
	if i := slices.IndexFunc(status.Problems, app.Problem.Blind); err == nil && i >= 0 {
		err = errors.New(status.Problems[i].What + ": " + status.Problems[i].Detail)
	}
	if err != nil {
		return []endpoint.Finding{
			{About: "cause", Text: "could not learn what the receiver refused: " + err.Error()},
			{About: "cause", Text: "likely STRIPE_WEBHOOK_SECRET is not that of this endpoint (status says so where serve runs), or " + elsewhere},
		}
	}
	var list []endpoint.Finding
	for _, p := range status.Problems {
		if p.Webhooks {
			list = append(list, endpoint.Finding{Problem: true, About: "cause", Text: p.What + " (" + p.Detail + "): " + p.Do})
		}
	}
	if len(list) == 0 {
		list = append(list, endpoint.Finding{About: "cause", Text: "the receiver refused none within the hour, so likely " + elsewhere})
	}
	return list
}

func endpointDelete(e *env) *cobra.Command {
	var o endpointOptions
	var id string
	c := &cobra.Command{
		Use: "delete we_…|ed_…", Short: "Delete an endpoint or an event destination", Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !strings.HasPrefix(args[0], "we_") && !strings.HasPrefix(args[0], endpoint.DestinationPrefix) {
				return fmt.Errorf("%w: want the id of one endpoint, we_…, or event destination, ed_…", errUsage)
			}
			if id = args[0]; o.thin && !strings.HasPrefix(id, endpoint.DestinationPrefix) {
				return fmt.Errorf("%w: --thin: the id of an event destination begins with ed_", errUsage)
			}
			return nil
		},
	}
	return endpointCommand(e, c, &o, false, func(ctx context.Context, s *endpoint.Service, w endpoint.Wanted) error {
		gone, err := s.Delete(ctx, w.Account, id)
		if err != nil {
			return err
		}
		fmt.Fprintf(e.err, "%s of %s is deleted; the events sweep still finds the events that it would have delivered\n", gone.ID, gone.URL)
		return nil
	})
}

func endpointRotate(e *env) *cobra.Command {
	var o endpointOptions
	c := &cobra.Command{
		Use: "rotate", Short: "Replace the signing secret without losing an event", Args: cobra.NoArgs,
		Long: lines(
			"In two steps. The first makes a second endpoint of the same URL, with a secret of its own:",
			"",
			"  creditmirror endpoint rotate --url … --secret-file whsec     whsec now holds NEW,OLD",
			"",
			"Give both secrets to the receivers (STRIPE_WEBHOOK_SECRET takes several) and restart them. Both",
			"endpoints deliver every event and each is taken once, whichever secret signed it; what a receiver",
			"refuses before it knows the new one, the old one delivers. The second step deletes the old",
			"endpoint, once Stripe reports that the new one's deliveries are accepted:",
			"",
			"  creditmirror endpoint rotate --url … --secret-file whsec --finish     whsec now holds NEW",
			"",
			"It is also the way to an endpoint of a newer API version. Stripe does not report whether thin",
			"events (--thin) were delivered: for those, the second step needs --force."),
	}
	c.Flags().StringVar(&o.secretFile, "secret-file", "", secretFileHelp)
	c.Flags().BoolVar(&o.finish, "finish", false, "the second step")
	c.Flags().BoolVar(&o.force, "force", false, "with --finish: although it is not proven that the new secret is accepted")
	return endpointCommand(e, c, &o, true, func(ctx context.Context, s *endpoint.Service, w endpoint.Wanted) error {
		if o.force && !o.finish {
			return fmt.Errorf("%w: --force goes with --finish", errUsage)
		}
		if o.finish {
			return o.finishRotation(ctx, e, s, w)
		}
		keep, err := o.keep(e)
		if err != nil {
			return err
		}
		made, err := s.Rotate(ctx, w, keep)
		if err != nil {
			return err
		}
		fmt.Fprintf(e.err, "%s created beside the old endpoint; next: give the receivers both secrets, restart them, then rotate --finish\n", made.ID)
		return nil
	})
}

func (o *endpointOptions) finishRotation(ctx context.Context, e *env, s *endpoint.Service, w endpoint.Wanted) error {
	kept, gone, err := s.FinishRotation(ctx, w, o.force)
	for _, g := range gone {
		fmt.Fprintf(e.err, "%s is deleted\n", g.ID)
	}
	if err != nil {
		return err
	}
	if o.secretFile != "" {
		held, err := readSecrets(o.secretFile)
		if err == nil && len(held) > 1 {
			err = writeSecrets(o.secretFile, held[:1])
		}
		if err != nil {
			return fmt.Errorf("--secret-file: take the old secret out by hand: %w", err)
		}
	}
	fmt.Fprintf(e.err, "only %s delivers now; take the old secret out of STRIPE_WEBHOOK_SECRET at the next restart\n", kept.ID)
	return nil
}
