package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
)

func newErase(e *env) *cobra.Command {
	var account string
	c := &cobra.Command{
		Use:   "erase CUSTOMER",
		Short: "Remove a deleted customer's personal data and keep the amounts",
		Long: lines(
			"Takes out of the mirror what may be personal of a customer that is deleted at Stripe: what is",
			"held of the customer besides its credit, and the descriptions, names and metadata of its",
			"transactions and grants. Ids, amounts, currencies, types and times stay, so that every",
			"balance, report and proof is the same as before. Delete the customer at Stripe first: the",
			"next read would bring everything back. The mirror's backups are yours to erase, and so is",
			"what was exported before; docs/security.md has the list."),
		Args: oneArg("the id of a customer (cus_…)"),
	}
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL)
	c.Flags().StringVar(&account, "account", "", "the connected account (acct_…) of the customer (default: the platform's own)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		switch id := args[0]; {
		case !mirror.ValidCustomerID(id):
			return fmt.Errorf("%w: erase: want the id of a customer (cus_…)", errUsage)
		case account != "" && !mirror.ValidAccountID(account):
			return fmt.Errorf("%w: --account: want acct_…", errUsage)
		}
		return withMirror(cmd.Context(), e, overrides, func(store mirror.Store) error {
			eraser, err := part[mirror.Eraser](store)
			if err != nil {
				return err
			}
			erased, err := eraser.EraseCustomer(cmd.Context(), account, args[0])
			switch {
			case errors.Is(err, mirror.ErrNotFound):
				return fmt.Errorf("there is no customer %s in the mirror (see --account)", args[0])
			case errors.Is(err, mirror.ErrNotDeleted):
				return fmt.Errorf("%s is not deleted at Stripe, so that the next read would bring everything back: delete it there, wait for the mirror to follow, and try again", args[0])
			case err != nil:
				return err
			}
			fmt.Fprintf(e.out, "erased %s: changed %d customer, %d balance transactions, %d grants, %d credit transactions, %d findings; amounts and ids are kept\n",
				args[0], erased.Customers, erased.Transactions, erased.Grants, erased.CreditTransactions, erased.Findings)
			return nil
		})
	}
	return c
}
