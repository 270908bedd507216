// Command ovfspec prints, as JSON, the machine that govmomi would make from an OVF descriptor: an independent reader of
// what we write, which knows controllers and firmware that vcsim's importer does not.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/vmware/govmomi/ovf"
	"github.com/vmware/govmomi/vim25/types"
)

func run(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	envelope, err := ovf.Unmarshal(file)
	if err != nil {
		return err
	}
	spec, err := envelope.ToConfigSpecWithOptions(ovf.ToConfigSpecOptions{Strict: true})
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := types.NewJSONEncoder(&text).Encode(spec); err != nil {
		return err
	}
	_, err = text.WriteTo(os.Stdout)
	return err
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: ovfspec FILE.ovf")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
