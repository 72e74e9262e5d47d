// Package opstest holds the tests of everything around the program: alerting
// rules, dashboards, Kubernetes manifests, compose file and image. They compare the
// names in these files with those of the program.
package opstest
