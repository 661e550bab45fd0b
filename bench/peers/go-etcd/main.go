// Peer: etcd's own Go client, with concurrency.Mutex.
//
// A Mutex is its Session's: two of one Session on one name are one owner. So each worker has a Session (a lease) of its
// own; all share one connection.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	"go.etcd.io/etcd/version"
)

var (
	options = map[string]string{}
	input   = bufio.NewReader(os.Stdin)
	ctx     = context.Background()
)

func number(name string, otherwise int) int {
	text, ok := options[name]
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	check(err)
	return n
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func mark(name string) {
	fmt.Println("MARK " + name)
	if os.Getenv("BENCH_MARKS") != "" {
		input.ReadString('\n')
	}
}

// One acquisition; times are since the beginning of the pass.
type record struct {
	worker, ticket                          int
	requested, granted, releasing, released time.Duration
}

func write(records []record) {
	file, err := os.Create(options["raw"])
	check(err)
	out := bufio.NewWriter(file)
	for _, r := range records {
		fmt.Fprintf(out, "%d,%d,%d,%d,%d,%d\n", r.worker, r.ticket,
			r.requested.Nanoseconds(), r.granted.Nanoseconds(), r.releasing.Nanoseconds(), r.released.Nanoseconds())
	}
	check(out.Flush())
	check(file.Close())
}

// Takes and releases the lock once.
func once(mutex *concurrency.Mutex, worker, ticket int, start time.Time) record {
	requested := time.Since(start)
	check(mutex.Lock(ctx))
	granted := time.Since(start)
	check(mutex.Unlock(ctx))
	return record{worker, ticket, requested, granted, granted, time.Since(start)}
}

func lockName(prefix string, lock int) string {
	return fmt.Sprintf("%s/l%05d", prefix, lock)
}

// All workers, one for each session, take and release locks, total times together.
func pass(sessions []*concurrency.Session, prefix string, total int) (records []record, start time.Time) {
	locks, limit := number("locks", 1), time.Duration(number("max-s", 60))*time.Second
	var tickets int64 = -1
	var mu sync.Mutex
	var workers sync.WaitGroup
	start = time.Now()
	for worker, session := range sessions {
		workers.Add(1)
		go func(worker int, session *concurrency.Session) {
			defer workers.Done()
			random := rand.New(rand.NewSource(int64(worker + 1)))
			mutex := concurrency.NewMutex(session, prefix)
			var own []record
			for {
				ticket := int(atomic.AddInt64(&tickets, 1))
				if ticket >= total || time.Since(start) > limit {
					break
				}
				if locks > 1 {
					mutex = concurrency.NewMutex(session, lockName(prefix, random.Intn(locks)))
				}
				own = append(own, once(mutex, worker, ticket, start))
			}
			mu.Lock()
			records = append(records, own...)
			mu.Unlock()
		}(worker, session)
	}
	workers.Wait()
	return records, start
}

func newSession(client *clientv3.Client) *concurrency.Session {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(number("ttl", 30)))
	check(err)
	return session
}

func newSessions(client *clientv3.Client, count int) []*concurrency.Session {
	sessions := make([]*concurrency.Session, count)
	atOnce := make(chan struct{}, 64)
	var opened sync.WaitGroup
	for i := range sessions {
		opened.Add(1)
		go func(i int) {
			defer opened.Done()
			atOnce <- struct{}{}
			sessions[i] = newSession(client)
			<-atOnce
		}(i)
	}
	opened.Wait()
	return sessions
}

func contend(client *clientv3.Client, prefix string) {
	workers, warm := number("c", 1), number("warm", 300)
	if warm < workers {
		warm = workers
	}
	sessions := newSessions(client, workers)
	pass(sessions, prefix, warm)
	mark("begin")
	records, start := pass(sessions, prefix, number("n", 2000))
	wall := time.Since(start)
	mark("end")
	write(records)
	fmt.Printf("{\"wall_s\":%f,\"done\":%d,\"t0_unix_ns\":%d}\n", wall.Seconds(), len(records), start.UnixNano())
}

// Many queue up behind one holder, who then lets go.
func drain(client *clientv3.Client, prefix string) {
	n := number("n", 1000)
	sessions := newSessions(client, n+1)
	holder := concurrency.NewMutex(sessions[n], prefix)
	check(holder.Lock(ctx))
	mark("enq")
	start := time.Now()
	records := make([]record, n)
	var waiters sync.WaitGroup
	for i := range records {
		waiters.Add(1)
		go func(i int) {
			defer waiters.Done()
			records[i] = once(concurrency.NewMutex(sessions[i], prefix), i, i, start)
		}(i)
	}
	for {
		reply, err := client.Get(ctx, prefix+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		check(err)
		if reply.Count > int64(n) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	queued := time.Since(start)
	mark("begin")
	released := time.Since(start)
	check(holder.Unlock(ctx))
	waiters.Wait()
	mark("end")
	var last time.Duration
	for _, r := range records {
		if r.granted > last {
			last = r.granted
		}
	}
	write(records)
	fmt.Printf("{\"drain_s\":%f,\"queued_s\":%f,\"done\":%d}\n", (last - released).Seconds(), queued.Seconds(), n)
}

func main() {
	workload := os.Args[1]
	if workload == "version" {
		fmt.Println(version.Version)
		return
	}
	for i := 2; i+1 < len(os.Args); i += 2 {
		options[strings.TrimLeft(os.Args[i], "-")] = os.Args[i+1]
	}
	var endpoints []string
	for _, endpoint := range strings.Split(options["endpoint"], ",") {
		endpoints = append(endpoints, "http://"+endpoint)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second})
	check(err)
	prefix := options["prefix"]
	switch workload {
	case "w1", "w2", "w3":
		contend(client, prefix)
	case "w4":
		drain(client, prefix)
	case "hold":
		check(concurrency.NewMutex(newSession(client), prefix).Lock(ctx))
		fmt.Println("HELD")
		io.Copy(io.Discard, input)
	case "wait":
		session := newSession(client)
		fmt.Println("WAITING")
		check(concurrency.NewMutex(session, prefix).Lock(ctx))
		fmt.Println("GRANTED")
	case "holdmany":
		session := newSession(client)
		for lock := 0; lock < number("n", 1000); lock++ {
			check(concurrency.NewMutex(session, lockName(prefix, lock)).Lock(ctx))
		}
		fmt.Println("HELD")
		io.Copy(io.Discard, input)
	default:
		log.Fatal("unknown workload ", workload)
	}
}
