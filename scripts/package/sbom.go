package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// The parts of SPDX 2.3 that say what a binary is made of.
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		License       string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID        string         `json:"SPDXID"`
		Name      string         `json:"name"`
		Version   string         `json:"versionInfo"`
		Supplier  string         `json:"supplier,omitempty"`
		Location  string         `json:"downloadLocation"`
		Analyzed  bool           `json:"filesAnalyzed"`
		Concluded string         `json:"licenseConcluded"`
		Declared  string         `json:"licenseDeclared"`
		Copyright string         `json:"copyrightText"`
		Checksums []spdxChecksum `json:"checksums,omitempty"`
		Purpose   string         `json:"primaryPackagePurpose,omitempty"`
		Refs      []spdxRef      `json:"externalRefs,omitempty"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

const binaryID = "SPDXRef-limpet"

// sbom lists the Go modules of the binary and of the programs in its payload, as
// their linker recorded them, Go itself, and the Debian packages of the payload.
func (b *builder) sbom(binary archBinary) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary.path)
	if err != nil {
		return nil, err
	}
	sum, _, err := sumFile(binary.path)
	if err != nil {
		return nil, err
	}
	purls := map[string]string{} // to the version
	addModules(purls, info)
	packed, err := os.Open(filepath.Join(b.root, "internal", "payload", "payload_linux_"+binary.arch+".tar.zst"))
	if err != nil {
		return nil, err
	}
	defer packed.Close()
	if err := addPayload(purls, packed); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	lock, err := os.ReadFile(filepath.Join(b.root, "scripts", "payload", "debs.lock"))
	if err != nil {
		return nil, err
	}
	if err := addDebs(purls, lock, binary.arch); err != nil {
		return nil, fmt.Errorf("debs.lock: %w", err)
	}
	return json.MarshalIndent(b.document(binary.arch, sum, purls), "", " ")
}

func addModules(purls map[string]string, info *debug.BuildInfo) {
	purls["pkg:golang/stdlib"] = info.GoVersion
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		purls["pkg:golang/"+m.Path] = m.Version
	}
}

// addPayload adds the modules of the Go programs in a payload archive.
func addPayload(purls map[string]string, packed io.Reader) error {
	zr, err := zstd.NewReader(packed)
	if err != nil {
		return err
	}
	defer zr.Close()
	tr, programs := tar.NewReader(zr), 0
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if programs == 0 {
				return errors.New("it has no Go program")
			}
			return nil
		}
		if err != nil {
			return err
		}
		if !strings.HasPrefix(header.Name, "bin/") {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		info, err := buildinfo.Read(bytes.NewReader(data))
		if err != nil {
			continue // the launcher of nft is written in C
		}
		programs++
		modules := map[string]string{}
		addModules(modules, info)
		for purl, version := range modules {
			purls[purl+"@"+version] = version // may be another one than limpet's own
		}
		if info.Main.Path != "" && info.Main.Version != "" && info.Main.Version != "(devel)" {
			purls["pkg:golang/"+info.Main.Path+"@"+info.Main.Version] = info.Main.Version
		}
	}
}

// addDebs adds the pinned packages: lines of ARCH PACKAGE VERSION SHA256.
func addDebs(purls map[string]string, lock []byte, arch string) error {
	debArch := map[string]string{"amd64": "amd64", "arm64": "arm64", "arm": "armhf"}[arch]
	found := false
	lines := bufio.NewScanner(bytes.NewReader(lock))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 4 || f[0] != debArch {
			continue
		}
		found = true
		purls["pkg:deb/debian/"+f[1]+"@"+strings.ReplaceAll(f[2], ":", "%3A")+"?arch="+debArch] = f[2]
	}
	if !found {
		return fmt.Errorf("no package for %q", debArch)
	}
	return lines.Err()
}

func (b *builder) document(arch, sum string, purls map[string]string) spdxDocument {
	const none = "NOASSERTION"
	doc := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "limpet-" + b.version + "-" + arch,
		Namespace: "https://github.com/limpetio/limpet/releases/download/" + b.version + "/limpet-" + arch + "-" + sum,
		Creation:  spdxCreation{Created: b.time.Format("2006-01-02T15:04:05Z"), Creators: []string{"Organization: Limpet", "Tool: limpet-package"}},
		Packages: []spdxPackage{{
			ID: binaryID, Name: "limpet", Version: b.version, Supplier: "Organization: Limpet", Location: none,
			Concluded: none, Declared: "Apache-2.0", Copyright: none, Purpose: "APPLICATION",
			Checksums: []spdxChecksum{{Algorithm: "SHA256", Value: sum}},
		}},
		Relationships: []spdxRelationship{{From: "SPDXRef-DOCUMENT", Type: "DESCRIBES", To: binaryID}},
	}
	locators := map[string]string{} // to the version; once, whoever uses it
	for purl, version := range purls {
		locator := purl
		if !strings.Contains(purl, "@") {
			locator += "@" + version
		}
		locators[locator] = version
	}
	for i, locator := range slices.Sorted(maps.Keys(locators)) {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(locator, "pkg:golang/"), "pkg:deb/debian/"), "@")
		id := fmt.Sprintf("SPDXRef-Package-%d", i+1)
		doc.Packages = append(doc.Packages, spdxPackage{
			ID: id, Name: name, Version: locators[locator], Location: none, Concluded: none, Declared: none, Copyright: none,
			Refs: []spdxRef{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: locator}},
		})
		doc.Relationships = append(doc.Relationships, spdxRelationship{From: binaryID, Type: "CONTAINS", To: id})
	}
	return doc
}
