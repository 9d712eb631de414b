package suite

import (
	"encoding/json"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/pkg/consts"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// listed is what the runner has to know about the suite without running it.
type listed struct {
	// Version is the release of the Gateway API that the suite belongs to.
	Version string `json:"version"`
	// Tests are all tests, in the order in which they run.
	Tests []listedTest `json:"tests"`
	// Features are all names that a status may claim.
	Features []string `json:"features"`
	// Words are the names and host names in the suite's manifests that nothing else uses.
	Words []string `json:"words"`
	// Images are the container images that the suite's pods run.
	Images []string `json:"images"`
}

type listedTest struct {
	Name     string   `json:"name"`
	Features []string `json:"features"`
}

var (
	objectName = regexp.MustCompile(`(?m)^\s*(?:- )?name:\s*"?([a-z0-9.-]+)"?\s*$`)
	hostName   = regexp.MustCompile(`[A-Za-z0-9*-]+(?:\.[A-Za-z0-9-]+)*\.(?:com|org|net|io)\b`)
	image      = regexp.MustCompile(`(?m)^\s*(?:- )?image:\s*"?(\S+?)"?\s*$`)
)

// TestList writes to the file named by SUITE_LIST what the suite holds.
func TestList(t *testing.T) {
	path := os.Getenv("SUITE_LIST")
	if path == "" {
		t.Fatal("set SUITE_LIST to the file to write")
	}
	list := listed{Version: consts.BundleVersion}
	for _, test := range tests.ConformanceTests {
		names := []string{}
		for _, feature := range test.Features {
			names = append(names, string(feature))
		}
		list.Tests = append(list.Tests, listedTest{Name: test.ShortName, Features: names})
	}
	for _, feature := range features.AllFeatures.UnsortedList() {
		list.Features = append(list.Features, string(feature.Name))
	}
	list.Words, list.Images = manifests(t)
	slices.Sort(list.Features)
	data, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// manifests reads the words and images out of every manifest that the suite carries.
func manifests(t *testing.T) (words, images []string) {
	err := fs.WalkDir(conformance.Manifests, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		data, err := conformance.Manifests.ReadFile(path)
		if err != nil {
			return err
		}
		for _, found := range objectName.FindAllSubmatch(data, -1) {
			if strings.Contains(string(found[1]), "-") {
				words = append(words, string(found[1]))
			}
		}
		for _, found := range image.FindAllSubmatch(data, -1) {
			images = append(images, string(found[1]))
		}
		for _, found := range hostName.FindAll(data, -1) {
			words = append(words, string(found))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(words)
	slices.Sort(images)
	return slices.Compact(words), slices.Compact(images)
}
