// Package opstest holds the tests of everything around the program: alerting
// rules, dashboards, Kubernetes manifests, compose file and image. They hold what
// these files name against what the program has.
package opstest
