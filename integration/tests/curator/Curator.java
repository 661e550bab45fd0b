import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.LeaderLatchListener;
import org.apache.curator.framework.recipes.locks.InterProcessLock;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.Revoker;
import org.apache.curator.retry.RetryOneTime;

/**
 * Curator's recipes, driven by lines "HANDLE VERB ARGUMENT..." on the standard input. What happens to a handle is told by
 * lines "HANDLE WORD..." on the standard output. Ends with its input.
 */
public final class Curator {
    private final CuratorFramework client;
    private final Map<String, Handle> handles = new ConcurrentHashMap<>();

    private Curator(CuratorFramework client) {
        this.client = client;
    }

    /** A name in the conversation. Curator's locks belong to threads, so each handle has one of its own. */
    private final class Handle {
        private final String name;
        private final ExecutorService thread = Executors.newSingleThreadExecutor();
        private InterProcessReadWriteLock readWrite;
        private InterProcessLock lock;
        private LeaderLatch latch;

        Handle(String name) {
            this.name = name;
        }

        void say(String what) {
            synchronized (System.out) {
                System.out.println(name + " " + what);
                System.out.flush();
            }
        }

        void obey(String[] words) {
            try {
                switch (words[1]) {
                    case "lock": acquire(new InterProcessMutex(client, words[2])); break;
                    case "revocable": {
                        InterProcessMutex mutex = new InterProcessMutex(client, words[2]);
                        mutex.makeRevocable(asked -> say("asked"));
                        acquire(mutex);
                        break;
                    }
                    case "read": readWrite = new InterProcessReadWriteLock(client, words[2]); acquire(readWrite.readLock()); break;
                    case "write": readWrite = new InterProcessReadWriteLock(client, words[2]); acquire(readWrite.writeLock()); break;
                    case "downgrade": {
                        InterProcessLock writing = lock;
                        acquire(readWrite.readLock());
                        writing.release();
                        say("reads");
                        break;
                    }
                    case "release": lock.release(); say("released"); break;
                    case "revoke": Revoker.attemptRevoke(client, words[2]); say("revoked"); break;
                    case "latch": campaign(words[2], words[3]); break;
                    case "leader": say("leader " + latch.getLeader().getId()); break;
                    case "close": latch.close(); say("closed"); break;
                    default: say("failed: no verb " + words[1]);
                }
            } catch (Exception error) {
                say("failed: " + error);
            }
        }

        private void acquire(InterProcessLock wanted) throws Exception {
            lock = wanted;
            lock.acquire();
            say("held");
        }

        private void campaign(String path, String id) throws Exception {
            latch = new LeaderLatch(client, path, id);
            latch.addListener(new LeaderLatchListener() {
                @Override public void isLeader() { say("leads"); }
                @Override public void notLeader() { say("follows"); }
            });
            latch.start();
        }
    }

    public static void main(String[] args) throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.newClient(args[0], 10_000, 10_000, new RetryOneTime(100));
        client.start();
        client.blockUntilConnected();
        Curator curator = new Curator(client);
        System.out.println("- ready");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            Handle handle = curator.handles.computeIfAbsent(words[0], name -> curator.new Handle(name));
            handle.thread.submit(() -> handle.obey(words));
        }
        System.exit(0);
    }
}
