// Command vcsim serves govmomi's vCenter (or ESXi) simulator over HTTPS for the tests, with the three calls of an export
// that it lacks: VirtualMachine.ExportVm, OvfManager.CreateDescriptor and HttpNfcLeaseSetManifestChecksumType.
//
// The URL goes to standard output once it listens. It ends on SIGINT, SIGTERM or, with -stdin, when standard input ends, and
// removes its datastores then.
package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
)

type options struct {
	listen    string
	esx       bool
	username  string
	password  string
	cert, key string
	disks     string
	requests  string
	version   string
	stdin     bool

	datacenters, folders, clusters, clusterHosts, hosts, pools, datastores, machines int
	autostart                                                                        bool
}

func parse(args []string) *options {
	o, vpx := new(options), simulator.VPX()
	f := flag.NewFlagSet("vcsim", flag.ExitOnError)
	f.StringVar(&o.listen, "l", "127.0.0.1:0", "listen on `ADDR:PORT`")
	f.BoolVar(&o.esx, "esx", false, "be a standalone ESXi host")
	f.StringVar(&o.username, "username", "user", "the only account")
	f.StringVar(&o.password, "password", "pass", "its password")
	f.StringVar(&o.cert, "cert", "", "certificate `FILE` (PEM); the default is self-signed")
	f.StringVar(&o.key, "key", "", "private key `FILE` (PEM)")
	f.StringVar(&o.disks, "disks", "", "copy `DIR`/VM/FILE over the files of that VM's folder in its datastore")
	f.StringVar(&o.requests, "data-requests", "", "append the time of each request for a disk's data to `FILE`, in nanoseconds since 1970")
	f.StringVar(&o.version, "api-version", "", "offer this `VERSION` of the API; the default is vcsim's own, 6.5")
	f.BoolVar(&o.stdin, "stdin", false, "end when standard input ends")
	f.IntVar(&o.datacenters, "dc", vpx.Datacenter, "datacenters")
	f.IntVar(&o.folders, "folder", vpx.Folder, "datacenters that lie in a folder")
	f.IntVar(&o.clusters, "cluster", vpx.Cluster, "clusters per datacenter")
	f.IntVar(&o.clusterHosts, "host", vpx.ClusterHost, "hosts per cluster")
	f.IntVar(&o.hosts, "standalone-host", vpx.Host, "standalone hosts per datacenter")
	f.IntVar(&o.pools, "pool", vpx.Pool, "resource pools per cluster")
	f.IntVar(&o.datastores, "ds", vpx.Datastore, "datastores")
	f.IntVar(&o.machines, "vm", vpx.Machine, "VMs per resource pool and standalone host")
	f.BoolVar(&o.autostart, "autostart", true, "power the VMs on")
	_ = f.Parse(args) // ExitOnError
	return o
}

func (o *options) model() *simulator.Model {
	model := simulator.ESX()
	if !o.esx {
		model = simulator.VPX()
		model.Datacenter = o.datacenters
		model.Folder = o.folders
		model.Cluster = o.clusters
		model.ClusterHost = o.clusterHosts
		model.Host = o.hosts
		model.Pool = o.pools
	}
	model.Datastore = o.datastores
	model.Machine = o.machines
	model.Autostart = o.autostart
	return model
}

func (o *options) tls() (*tls.Config, error) {
	config := new(tls.Config) // empty: httptest's own self-signed certificate
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// serve fills and starts the server; the caller closes it and removes the model.
func serve(o *options, model *simulator.Model) (*simulator.Server, error) {
	config, err := o.tls()
	if err != nil {
		return nil, err
	}
	if o.version != "" {
		model.ServiceContent.About.ApiVersion = o.version
	}
	if err = model.Create(); err != nil {
		return nil, err
	}
	service := model.Service
	service.TLS = config
	service.Listen = &url.URL{Host: o.listen, User: url.UserPassword(o.username, o.password)}
	service.RegisterEndpoints = true
	addExport(service.Context.Map)
	if o.requests != "" {
		service.HandleFunc("GET /nfc/", timed(o.requests))
	}
	if o.disks != "" {
		if err = layDisks(service.Context, o.disks); err != nil {
			return nil, err
		}
	}
	return service.NewServer(), nil
}

// timed serves the files of leases as vcsim does, and writes down when each is asked for.
func timed(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(file, time.Now().UnixNano())
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		simulator.ServeNFC(w, r)
	}
}

func untilTold(stdin bool) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGINT, syscall.SIGTERM)
	if stdin {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			told <- syscall.SIGTERM
		}()
	}
	<-told
}

func run(o *options) error {
	model := o.model()
	server, err := serve(o, model)
	if model.Service != nil {
		defer model.Remove()
	}
	if err != nil {
		return err
	}
	fmt.Printf("https://%s%s\n", server.URL.Host, server.URL.Path)
	untilTold(o.stdin)
	server.CloseClientConnections() // Close would wait for transfers under way
	server.Close()
	return nil
}

func main() {
	if err := run(parse(os.Args[1:])); err != nil {
		log.Fatal(err)
	}
}
