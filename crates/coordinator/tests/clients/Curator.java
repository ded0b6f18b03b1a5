import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.api.CuratorWatcher;
import org.apache.curator.framework.api.transaction.CuratorTransactionResult;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.LeaderSelector;
import org.apache.curator.framework.recipes.leader.LeaderSelectorListenerAdapter;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.framework.recipes.queue.SimpleDistributedQueue;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.recipes.shared.SharedCountListener;
import org.apache.curator.framework.recipes.shared.SharedCountReader;
import org.apache.curator.framework.recipes.shared.VersionedValue;
import org.apache.curator.framework.recipes.watch.PersistentWatcher;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.RetryNTimes;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.ACL;
import org.apache.zookeeper.data.Id;
import org.apache.zookeeper.data.Stat;

/** Curator's framework and recipes against the servers that are named. Prints what it sees: the same wherever it is run. */
public class Curator {
    private static final List<CuratorFramework> OPEN = new ArrayList<>();
    private static String servers;

    private static CuratorFramework client(String... auth) throws Exception {
        CuratorFrameworkFactory.Builder builder = CuratorFrameworkFactory.builder().connectString(servers).namespace("app")
            .sessionTimeoutMs(10_000).connectionTimeoutMs(10_000).retryPolicy(new RetryNTimes(50, 100));
        if (auth.length > 0) {
            builder.authorization("digest", auth[0].getBytes(StandardCharsets.UTF_8));
        }
        CuratorFramework client = builder.build();
        client.start();
        if (!client.blockUntilConnected(30, TimeUnit.SECONDS)) {
            throw new IllegalStateException("not connected");
        }
        OPEN.add(client);
        return client;
    }

    private static void show(String what, Object value) {
        System.out.println(what + ": " + value);
    }

    private static String failure(Callable<?> work) {
        try {
            return "no failure, but " + work.call();
        } catch (KeeperException e) {
            return e.code().toString();
        } catch (Exception e) {
            return e.toString();
        }
    }

    private static <T> T eventually(Callable<T> ask) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        while (true) {
            T found = ask.call();
            if (found != null) {
                return found;
            }
            if (System.nanoTime() > end) {
                throw new IllegalStateException("it did not come about within 30 s");
            }
            Thread.sleep(20);
        }
    }

    /** What others have written is seen by this client from now on, whichever server it is on. */
    private static CuratorFramework synced(CuratorFramework client) throws Exception {
        CountDownLatch done = new CountDownLatch(1);
        client.getZookeeperClient().getZooKeeper().sync("/", (code, path, context) -> done.countDown(), null);
        done.await();
        return client;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] data) {
        return data == null ? "null" : new String(data, StandardCharsets.UTF_8);
    }

    /** Ends a session as its own client would, so that the servers have ended it. */
    private static void kill(CuratorFramework client) throws Exception {
        ZooKeeper of = client.getZookeeperClient().getZooKeeper();
        CountDownLatch connected = new CountDownLatch(1);
        ZooKeeper twin = new ZooKeeper(servers, 10_000, e -> connected.countDown(), of.getSessionId(), of.getSessionPasswd());
        connected.await();
        twin.close();
    }

    private static void nodes(CuratorFramework one, CuratorFramework two) throws Exception {
        one.create().creatingParentContainersIfNeeded().forPath("/nodes/deep/leaf", bytes("x"));
        show("parents", one.checkExists().forPath("/nodes/deep").getNumChildren());
        String made = one.create().withProtection().withMode(CreateMode.EPHEMERAL_SEQUENTIAL).forPath("/nodes/job-");
        show("protected", made.matches("/nodes/_c_[0-9a-f-]{36}-job-[0-9]{10}"));
        one.create().withTtl(60_000).withMode(CreateMode.PERSISTENT_WITH_TTL).forPath("/nodes/ttl");
        show("or set", one.create().orSetData().forPath("/nodes/ttl", bytes("y")));
        show("set", text(synced(two).getData().forPath("/nodes/ttl")));
        show("wrong version", failure(() -> two.setData().withVersion(9).forPath("/nodes/ttl", bytes("z"))));
        show("not empty", failure(() -> two.delete().forPath("/nodes")));
        show("exists", failure(() -> two.create().forPath("/nodes")));
        show("quietly", two.delete().quietly().forPath("/nowhere"));
        CompletableFuture<String> answer = new CompletableFuture<>();
        one.getChildren().inBackground((c, e) -> answer.complete(e.getType() + " " + e.getResultCode() + " " + e.getChildren().size())).forPath("/nodes");
        show("in the background", answer.get());
        // The namespace is a container itself, and would go with what is in it.
        one.create().forPath("/kept");
        one.delete().guaranteed().deletingChildrenIfNeeded().forPath("/nodes");
        show("gone", synced(two).checkExists().forPath("/nodes"));
        // Of a container, once its last child is gone.
        one.create().creatingParentContainersIfNeeded().forPath("/emptied/child");
        one.delete().forPath("/emptied/child");
        eventually(() -> two.checkExists().forPath("/emptied") == null ? true : null);
        show("an empty container", "is removed");
    }

    private static void transactions(CuratorFramework one) throws Exception {
        one.create().forPath("/tx");
        Collection<CuratorTransactionResult> results = one.transaction().forOperations(
            one.transactionOp().create().forPath("/tx/a", bytes("1")),
            one.transactionOp().setData().forPath("/tx/a", bytes("2")),
            one.transactionOp().check().withVersion(1).forPath("/tx/a"),
            one.transactionOp().create().withMode(CreateMode.PERSISTENT_SEQUENTIAL).forPath("/tx/s-"),
            one.transactionOp().delete().forPath("/tx/a"));
        for (CuratorTransactionResult r : results) {
            show("transaction", r.getType() + " " + r.getForPath() + " " + r.getResultPath() + " " + r.getError());
        }
        show("refused", failure(() -> one.transaction().forOperations(
            one.transactionOp().create().forPath("/tx/b"), one.transactionOp().check().withVersion(3).forPath("/tx"))));
        show("nothing was done", one.checkExists().forPath("/tx/b"));
    }

    private static void acls(CuratorFramework one) throws Exception {
        CuratorFramework ann = client("ann:secret");
        ann.create().withACL(ZooDefs.Ids.CREATOR_ALL_ACL).forPath("/mine", bytes("private"));
        show("owner", text(ann.getData().forPath("/mine")));
        show("others", failure(() -> synced(one).getData().forPath("/mine")));
        List<ACL> open = new ArrayList<>(ann.getACL().forPath("/mine"));
        open.add(new ACL(ZooDefs.Perms.READ, new Id("world", "anyone")));
        ann.setACL().withACL(open).forPath("/mine");
        show("opened", text(synced(one).getData().forPath("/mine")));
        show("but not for writing", failure(() -> one.setData().forPath("/mine", bytes("x"))));
    }

    private static void locks(CuratorFramework one, CuratorFramework two) throws Exception {
        one.create().forPath("/counter", bytes("0"));
        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<?>> all = new ArrayList<>();
        AtomicInteger inside = new AtomicInteger();
        for (int t = 0; t < 4; t++) {
            CuratorFramework client = t % 2 == 0 ? one : two;
            all.add(pool.submit(() -> {
                InterProcessMutex mutex = new InterProcessMutex(client, "/lock");
                for (int i = 0; i < 10; i++) {
                    mutex.acquire();
                    if (inside.incrementAndGet() != 1) {
                        throw new IllegalStateException("two have the lock");
                    }
                    int n = Integer.parseInt(text(client.getData().forPath("/counter")));
                    client.setData().forPath("/counter", bytes(Integer.toString(n + 1)));
                    inside.decrementAndGet();
                    mutex.release();
                }
                return null;
            }));
        }
        for (Future<?> f : all) {
            f.get();
        }
        pool.shutdown();
        show("counted under a lock", text(synced(two).getData().forPath("/counter")));

        InterProcessReadWriteLock a = new InterProcessReadWriteLock(one, "/rw");
        InterProcessReadWriteLock b = new InterProcessReadWriteLock(two, "/rw");
        show("two read", a.readLock().acquire(10, TimeUnit.SECONDS) && b.readLock().acquire(10, TimeUnit.SECONDS));
        a.readLock().release();
        show("none writes", a.writeLock().acquire(300, TimeUnit.MILLISECONDS));
        b.readLock().release();
        show("one writes", a.writeLock().acquire(10, TimeUnit.SECONDS));
        show("and reads itself", a.readLock().acquire(10, TimeUnit.SECONDS));
        show("others do not", b.readLock().acquire(300, TimeUnit.MILLISECONDS));
        a.readLock().release();
        a.writeLock().release();

        InterProcessSemaphoreV2 first = new InterProcessSemaphoreV2(one, "/semaphore", 2);
        InterProcessSemaphoreV2 second = new InterProcessSemaphoreV2(two, "/semaphore", 2);
        var lease = first.acquire(10, TimeUnit.SECONDS);
        show("leases", lease != null && second.acquire(10, TimeUnit.SECONDS) != null);
        show("a third", first.acquire(300, TimeUnit.MILLISECONDS));
        first.returnLease(lease);
        show("after one came back", second.acquire(10, TimeUnit.SECONDS) != null);
    }

    private static void leaders() throws Exception {
        List<CuratorFramework> clients = List.of(client(), client(), client());
        List<LeaderLatch> latches = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            LeaderLatch latch = new LeaderLatch(clients.get(i), "/latch", "p" + i);
            latch.start();
            latches.add(latch);
        }
        eventually(() -> latches.get(0).getParticipants().size() == 3 ? true : null);
        Callable<LeaderLatch> only = () -> {
            List<LeaderLatch> lead = latches.stream().filter(LeaderLatch::hasLeadership).toList();
            return lead.size() == 1 ? lead.get(0) : null;
        };
        LeaderLatch leader = eventually(only);
        latches.remove(leader);
        leader.close();
        LeaderLatch next = eventually(only);
        show("another leads", !next.getId().equals(leader.getId()));
        // The session of the leader ends on the servers.
        kill(clients.get(Integer.parseInt(next.getId().substring(1))));
        LeaderLatch other = latches.get(0) == next ? latches.get(1) : latches.get(0);
        eventually(() -> other.hasLeadership() ? true : null);
        show("a leader whose session has ended", "is followed by another");
        for (LeaderLatch latch : latches) {
            latch.close();
        }

        BlockingQueue<String> order = new LinkedBlockingQueue<>();
        List<LeaderSelector> selectors = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            String name = "s" + i;
            LeaderSelector selector = new LeaderSelector(client(), "/selector", new LeaderSelectorListenerAdapter() {
                @Override
                public void takeLeadership(CuratorFramework c) {
                    order.add(name);
                }
            });
            selector.start();
            selectors.add(selector);
        }
        Set<String> took = new TreeSet<>();
        for (int i = 0; i < 3; i++) {
            took.add(order.poll(30, TimeUnit.SECONDS));
        }
        show("each led once", took);
        for (LeaderSelector selector : selectors) {
            selector.close();
        }
    }

    private static void counters(CuratorFramework one, CuratorFramework two) throws Exception {
        SharedCount a = new SharedCount(one, "/count", 7);
        SharedCount b = new SharedCount(two, "/count", 8);
        BlockingQueue<Integer> seen = new LinkedBlockingQueue<>();
        b.addListener(new SharedCountListener() {
            @Override
            public void countHasChanged(SharedCountReader count, int value) {
                seen.add(value);
            }

            @Override
            public void stateChanged(CuratorFramework c, ConnectionState state) {
            }
        });
        a.start();
        b.start();
        show("shared", b.getCount());
        VersionedValue<Integer> old = a.getVersionedValue();
        a.setCount(11);
        show("heard of", seen.poll(30, TimeUnit.SECONDS));
        show("set over a newer one", a.trySetCount(old, 12));
        a.close();
        b.close();

        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<?>> all = new ArrayList<>();
        for (int t = 0; t < 4; t++) {
            CuratorFramework client = t % 2 == 0 ? one : two;
            all.add(pool.submit(() -> {
                DistributedAtomicLong n = new DistributedAtomicLong(client, "/atomic", new RetryNTimes(1000, 2));
                for (int i = 0; i < 25; i++) {
                    if (!n.increment().succeeded()) {
                        throw new IllegalStateException("not incremented");
                    }
                }
                return null;
            }));
        }
        for (Future<?> f : all) {
            f.get();
        }
        pool.shutdown();
        show("atomic", new DistributedAtomicLong(synced(one), "/atomic", new RetryNTimes(10, 10)).get().postValue());
    }

    private static void watching(CuratorFramework one, CuratorFramework two) throws Exception {
        one.create().forPath("/tree", bytes("0"));
        BlockingQueue<String> events = new LinkedBlockingQueue<>();
        CuratorCache cache = CuratorCache.build(synced(two), "/tree");
        cache.listenable().addListener((type, before, after) -> {
            String path = after != null ? after.getPath() : before.getPath();
            events.add(type + " " + path + " " + text(after == null ? null : after.getData()));
        });
        cache.start();
        show("cache", events.poll(30, TimeUnit.SECONDS));
        for (Callable<?> change : List.<Callable<?>>of(
            () -> one.create().forPath("/tree/a", bytes("1")),
            () -> one.create().forPath("/tree/a/b", bytes("2")),
            () -> one.setData().forPath("/tree/a/b", bytes("3")),
            () -> one.delete().forPath("/tree/a/b"),
            () -> one.delete().forPath("/tree/a"))) {
            change.call();
            show("cache", events.poll(30, TimeUnit.SECONDS));
        }
        cache.close();

        BlockingQueue<String> told = new LinkedBlockingQueue<>();
        PersistentWatcher persistent = new PersistentWatcher(two, "/tree", true);
        CountDownLatch set = new CountDownLatch(1);
        persistent.getResetListenable().addListener(set::countDown);
        persistent.getListenable().addListener(e -> {
            if (e.getPath() != null) {
                told.add(e.getType() + " " + e.getPath());
            }
        });
        persistent.start();
        set.await();
        one.create().forPath("/tree/x");
        one.setData().forPath("/tree/x", bytes("1"));
        one.setData().forPath("/tree", bytes("1"));
        one.delete().forPath("/tree/x");
        for (int i = 0; i < 4; i++) {
            show("persistent", told.poll(30, TimeUnit.SECONDS));
        }
        // After a new session the watch is there again.
        kill(two);
        eventually(() -> {
            one.setData().forPath("/tree", bytes("2"));
            return told.poll(200, TimeUnit.MILLISECONDS);
        });
        show("persistent", "over sessions");
        persistent.close();

        BlockingQueue<String> once = new ArrayBlockingQueue<>(10);
        CuratorWatcher watcher = e -> once.add(e.getType() + " " + e.getPath());
        two.checkExists().usingWatcher(watcher).forPath("/later");
        two.watchers().remove(watcher).ofType(Watcher.WatcherType.Any).forPath("/later");
        show("removed", once.poll(30, TimeUnit.SECONDS));
        one.create().forPath("/later");
        show("told of nothing more", once.poll(300, TimeUnit.MILLISECONDS));
    }

    private static void meeting(CuratorFramework one, CuratorFramework two) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(3);
        AtomicInteger present = new AtomicInteger();
        List<Future<Integer>> all = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            CuratorFramework client = i == 0 ? one : two;
            all.add(pool.submit(() -> {
                DistributedDoubleBarrier barrier = new DistributedDoubleBarrier(client, "/barrier", 3);
                present.incrementAndGet();
                barrier.enter(30, TimeUnit.SECONDS);
                int seen = present.get();
                barrier.leave(30, TimeUnit.SECONDS);
                return seen;
            }));
        }
        for (Future<Integer> f : all) {
            show("behind the barrier", f.get());
        }
        pool.shutdown();

        SimpleDistributedQueue queue = new SimpleDistributedQueue(one, "/queue");
        for (int i = 0; i < 20; i++) {
            queue.offer(bytes("e" + i));
        }
        SimpleDistributedQueue other = new SimpleDistributedQueue(two, "/queue");
        StringBuilder taken = new StringBuilder();
        for (int i = 0; i < 20; i++) {
            taken.append(text((i % 2 == 0 ? queue : other).take())).append(' ');
        }
        show("queue", taken.toString().trim());

        GroupMember a = new GroupMember(one, "/group", "a", bytes("1"));
        GroupMember b = new GroupMember(two, "/group", "b", bytes("2"));
        a.start();
        b.start();
        show("members", eventually(() -> a.getCurrentMembers().size() == 2 ? new TreeSet<>(a.getCurrentMembers().keySet()) : null));
        b.close();
        show("members", eventually(() -> a.getCurrentMembers().size() == 1 ? a.getCurrentMembers().keySet() : null));
        a.close();
    }

    private static void sessions(CuratorFramework one) throws Exception {
        CuratorFramework client = client();
        BlockingQueue<ConnectionState> states = new LinkedBlockingQueue<>();
        client.getConnectionStateListenable().addListener((c, state) -> {
            // Told late, of what was so before this listened.
            if (state != ConnectionState.CONNECTED) {
                states.add(state);
            }
        });
        PersistentNode node = new PersistentNode(client, CreateMode.EPHEMERAL, false, "/alive", bytes("here"));
        node.start();
        node.waitForInitialCreate(30, TimeUnit.SECONDS);
        // Its server may learn of it a moment later.
        long before = eventually(() -> one.checkExists().forPath("/alive")).getEphemeralOwner();
        kill(client);
        Stat after = eventually(() -> {
            Stat stat = one.checkExists().forPath("/alive");
            return stat != null && stat.getEphemeralOwner() != before ? stat : null;
        });
        show("made again in another session", after.getEphemeralOwner() == client.getZookeeperClient().getZooKeeper().getSessionId());
        List<ConnectionState> seen = new ArrayList<>();
        while (!seen.contains(ConnectionState.RECONNECTED)) {
            seen.add(states.poll(30, TimeUnit.SECONDS));
        }
        show("states", seen);
        node.close();
        client.close();
        show("closed", synced(one).checkExists().forPath("/alive"));
    }

    public static void main(String[] arguments) throws Exception {
        servers = arguments[0];
        CuratorFramework one = client();
        CuratorFramework two = client();
        nodes(one, two);
        transactions(one);
        acls(one);
        locks(one, two);
        counters(one, two);
        meeting(one, two);
        sessions(one);
        leaders();
        watching(one, two);
        for (CuratorFramework client : OPEN) {
            client.close();
        }
        show("done", true);
        System.exit(0);
    }
}
