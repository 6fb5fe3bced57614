// A candidate on etcd's own election library: it campaigns, says when it leads and when it has lost its session, and observes.
//
// Usage: go-candidate ENDPOINT[,ENDPOINT...] PREFIX VALUE TTL-SECONDS
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	ttl, err := strconv.Atoi(os.Args[4])
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(os.Args[1], ","),
		DialTimeout: 5 * time.Second,
		// The least that gRPC allows: without it a member whose host is lost is waited for until TCP gives up.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: time.Second,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
	if err != nil {
		return err
	}
	election := concurrency.NewElection(session, os.Args[2])
	go func() {
		for observed := range election.Observe(context.Background()) {
			fmt.Printf("observed %q\n", observed.Kvs[0].Value)
		}
	}()
	fmt.Println("campaigning")
	if err := election.Campaign(context.Background(), os.Args[3]); err != nil {
		return err
	}
	fmt.Printf("leading at %d\n", election.Rev())
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	select {
	case <-terminated:
		return session.Close()
	case <-session.Done():
		fmt.Println("lost")
		return nil
	}
}
