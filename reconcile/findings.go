package reconcile

import (
	"context"

	"github.com/creditmirror/creditmirror/mirror"
)

// repairs reports whether a sweep may repair what it finds.
func repairs(repair *bool, dryRun bool) bool { return !dryRun && (repair == nil || *repair) }

// openAll records findings and counts those that are new. A dry run has nowhere
// to look, so all of its findings count.
func openAll(ctx context.Context, store findings, list []mirror.Finding, dryRun bool, opened *map[mirror.DriftKind]int) error {
	fresh := list
	if !dryRun {
		var err error
		if fresh, err = store.OpenFindings(ctx, list); err != nil {
			return err
		}
	}
	if *opened == nil && len(fresh) > 0 {
		*opened = map[mirror.DriftKind]int{}
	}
	for _, f := range fresh {
		(*opened)[f.Kind]++
	}
	return nil
}
