import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.FileWriter;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.ExponentialBackoffRetry;
import org.apache.zookeeper.data.Stat;

/** Peer: Apache Curator, with InterProcessMutex. One client, so one session; a thread for each worker. */
public class Bench {
    private static final Map<String, String> options = new HashMap<>();
    private static final BufferedReader input = new BufferedReader(new InputStreamReader(System.in));

    private static int number(String name, int otherwise) {
        String value = options.get(name);
        return value == null ? otherwise : Integer.parseInt(value);
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    private static void mark(String name) throws IOException {
        say("MARK " + name);
        if (System.getenv("BENCH_MARKS") != null) input.readLine();
    }

    private static void untilInputEnds() throws IOException {
        while (input.readLine() != null) { }
    }

    /** One acquisition; times in nanoseconds since the beginning of the pass. */
    private static final class Acquisition {
        final long worker, ticket, requested, granted, released;

        /** Takes and releases the lock once. */
        Acquisition(InterProcessMutex lock, long worker, long ticket, long start) throws Exception {
            this.worker = worker;
            this.ticket = ticket;
            requested = System.nanoTime() - start;
            lock.acquire();
            granted = System.nanoTime() - start;
            lock.release();
            released = System.nanoTime() - start;
        }
    }

    private static void write(List<Acquisition> done) throws IOException {
        try (PrintWriter out = new PrintWriter(new BufferedWriter(new FileWriter(options.get("raw"))))) {
            for (Acquisition a : done) {
                out.println(a.worker + "," + a.ticket + "," + a.requested + "," + a.granted + "," + a.granted + "," + a.released);
            }
        }
    }

    private interface Work {
        void run(int worker) throws Exception;
    }

    private static List<Thread> start(int workers, Work work) {
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < workers; i++) {
            int worker = i;
            Runnable body = () -> {
                try {
                    work.run(worker);
                } catch (Throwable failure) {
                    failure.printStackTrace();
                    Runtime.getRuntime().halt(1);
                }
            };
            Thread thread = new Thread(null, body, "worker-" + i, 256 * 1024);
            threads.add(thread);
            thread.start();
        }
        return threads;
    }

    private static void join(List<Thread> threads) throws InterruptedException {
        for (Thread thread : threads) thread.join();
    }

    private static String lockName(String prefix, int lock) {
        return String.format("%s/l%05d", prefix, lock);
    }

    /** All workers take and release locks, total times together. */
    private static List<Acquisition> pass(CuratorFramework client, String prefix, int workers, int total, long start)
            throws Exception {
        int locks = number("locks", 1);
        long limit = number("max-s", 60) * 1_000_000_000L;
        AtomicLong tickets = new AtomicLong();
        List<Acquisition> all = Collections.synchronizedList(new ArrayList<>());
        join(start(workers, worker -> {
            Random random = new Random(worker + 1);
            List<Acquisition> own = new ArrayList<>();
            InterProcessMutex lock = new InterProcessMutex(client, prefix);
            for (;;) {
                long ticket = tickets.getAndIncrement();
                if (ticket >= total || System.nanoTime() - start > limit) break;
                if (locks > 1) lock = new InterProcessMutex(client, lockName(prefix, random.nextInt(locks)));
                own.add(new Acquisition(lock, worker, ticket, start));
            }
            all.addAll(own);
        }));
        return all;
    }

    private static void contend(CuratorFramework client, String prefix) throws Exception {
        int workers = number("c", 1);
        pass(client, prefix, workers, Math.max(workers, number("warm", 300)), System.nanoTime());
        mark("begin");
        Instant now = Instant.now();
        long start = System.nanoTime();
        List<Acquisition> done = pass(client, prefix, workers, number("n", 2000), start);
        double wall = (System.nanoTime() - start) / 1e9;
        mark("end");
        write(done);
        long began = now.getEpochSecond() * 1_000_000_000L + now.getNano();
        say(String.format(Locale.ROOT, "{\"wall_s\":%.6f,\"done\":%d,\"t0_unix_ns\":%d}", wall, done.size(), began));
    }

    /** Many queue up behind one holder, who then lets go. */
    private static void drain(CuratorFramework client, String prefix) throws Exception {
        int n = number("n", 1000);
        InterProcessMutex holder = new InterProcessMutex(client, prefix);
        holder.acquire();
        List<Acquisition> done = Collections.synchronizedList(new ArrayList<>());
        mark("enq");
        long start = System.nanoTime();
        List<Thread> waiters = start(n, worker ->
            done.add(new Acquisition(new InterProcessMutex(client, prefix), worker, worker, start)));
        for (;;) {
            Stat lock = client.checkExists().forPath(prefix);
            if (lock != null && lock.getNumChildren() > n) break;
            Thread.sleep(20);
        }
        double queued = (System.nanoTime() - start) / 1e9;
        mark("begin");
        long released = System.nanoTime() - start;
        holder.release();
        join(waiters);
        mark("end");
        long last = 0;
        for (Acquisition a : done) last = Math.max(last, a.granted);
        write(done);
        say(String.format(Locale.ROOT, "{\"drain_s\":%.6f,\"queued_s\":%.6f,\"done\":%d}", (last - released) / 1e9, queued, n));
    }

    public static void main(String[] words) throws Exception {
        for (int i = 1; i + 1 < words.length; i += 2) options.put(words[i].replaceFirst("^-+", ""), words[i + 1]);
        CuratorFramework client = CuratorFrameworkFactory.newClient(
            options.get("endpoint"), number("ttl", 30) * 1000, 15_000, new ExponentialBackoffRetry(100, 3));
        client.start();
        client.blockUntilConnected();
        String prefix = options.get("prefix");
        switch (words[0]) {
            case "w1": case "w2": case "w3":
                contend(client, prefix);
                break;
            case "w4":
                drain(client, prefix);
                break;
            case "hold":
                new InterProcessMutex(client, prefix).acquire();
                say("HELD");
                untilInputEnds();
                break;
            case "wait":
                say("WAITING");
                new InterProcessMutex(client, prefix).acquire();
                say("GRANTED");
                break;
            case "holdmany":
                for (int lock = 0; lock < number("n", 1000); lock++) {
                    new InterProcessMutex(client, lockName(prefix, lock)).acquire();
                }
                say("HELD");
                untilInputEnds();
                break;
            default:
                throw new IllegalArgumentException(words[0]);
        }
        Runtime.getRuntime().halt(0);
    }
}
