//! Persistent membership in a group.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::time::Duration;

use tokio::time::Instant;

use super::{Contender, Cut, World, contenders, eventually, fresh_name, in_time, patience, poll_and_drop};
use crate::{Error, Group, GroupWatch, Loss, Member, Membership, Name, Release};

const SECOND: Duration = Duration::from_secs(1);

/// One group in several clients.
fn everywhere(contenders: &[Contender]) -> Vec<Group> {
    let name = fresh_name();
    contenders.iter().map(|contender| contender.client.group(&name).unwrap()).collect()
}

fn queue(group: &Group) -> Name {
    Name::new(group.name()).unwrap()
}

async fn has_length(world: &dyn World, group: &Group, n: usize) {
    let queue = queue(group);
    eventually(&format!("{queue} has {n} members"), patience(world), || async {
        world.entries(&queue).await.len() == n
    })
    .await;
}

async fn joined(world: &dyn World, group: &Group, value: &str) -> Membership {
    in_time(world, "nothing is in the way", group.join(value)).await.unwrap()
}

fn values(members: &[Member]) -> Vec<&str> {
    members.iter().map(|member| std::str::from_utf8(&member.value).unwrap()).collect()
}

async fn shows(group: &Group, wanted: &[&str]) {
    assert_eq!(values(&group.members().await.unwrap()), wanted);
}

/// Follows a group until it shows these values.
async fn seen(world: &dyn World, watch: &mut GroupWatch, wanted: &[&str]) {
    let mut last = Vec::new();
    let following = async {
        while values(&last) != wanted {
            last = watch.next().await.unwrap();
        }
    };
    in_time(world, &format!("the group shows {wanted:?}"), following).await;
}

async fn registered_again(world: &dyn World, membership: &mut Membership, before: &str) -> String {
    let again = async {
        loop {
            match membership.id() {
                Some(id) if id != before => return id,
                _ => drop(membership.changed().await.unwrap()),
            }
        }
    };
    in_time(world, "it is registered again", again).await
}

pub async fn shows_its_members_in_the_order_of_their_coming(world: &dyn World) {
    let two = contenders(world, 2).await;
    let group = everywhere(&two);
    assert!(group[1].members().await.unwrap().is_empty());
    let a = joined(world, &group[0], "a\0ä").await;
    let b = joined(world, &group[1], "{\"host\":\"x\",\"pid\":1}").await;
    let c = joined(world, &group[0], "").await;
    let members = group[1].members().await.unwrap();
    assert_eq!(values(&members), ["a\0ä", "{\"host\":\"x\",\"pid\":1}", ""]);
    let ids = [&a, &b, &c].map(|membership| membership.id().unwrap());
    assert_eq!(members.iter().map(|member| member.id.as_str()).collect::<Vec<_>>(), ids);
    assert!(members.is_sorted_by_key(|member| member.token));
    assert_eq!(members[1].session, two[1].client.session_id().await.unwrap());
    for member in &members {
        assert_eq!(member.owner.as_ref().unwrap().pid, std::process::id());
    }
    // Members are not asked to let go; what they show stays.
    let queue = two[1].client.queue(group[1].name()).unwrap();
    assert!(queue.revoke(members[0].token.unwrap()).await.unwrap());
    assert_eq!(group[1].members().await.unwrap(), members);
    assert_eq!(in_time(world, "an answer", b.leave()).await, Release::Released);
    shows(&group[0], &["a\0ä", ""]).await;
    std::thread::spawn(move || drop(a)).join().unwrap();
    has_length(world, &group[0], 1).await;
    drop(c);
    has_length(world, &group[0], 0).await;
}

pub async fn follows_who_comes_and_goes_and_what_they_show(world: &dyn World) {
    let three = contenders(world, 3).await;
    let group = everywhere(&three);
    let mut watch = group[2].watch();
    assert!(in_time(world, "the first answer comes at once", watch.next()).await.unwrap().is_empty());
    let a = joined(world, &group[0], "a").await;
    seen(world, &mut watch, &["a"]).await;
    let b = joined(world, &group[1], "b").await;
    seen(world, &mut watch, &["a", "b"]).await;
    let id = a.id();
    // A new value is seen as soon as a new member, not with the next one.
    let began = Instant::now();
    for value in ["a1", "a2"] {
        in_time(world, "it is shown", a.update(value)).await.unwrap();
        shows(&group[1], &[value, "b"]).await;
        seen(world, &mut watch, &[value, "b"]).await;
    }
    assert!(began.elapsed() < SECOND * 4, "{:?}", began.elapsed());
    assert_eq!(a.id(), id, "the place is kept");
    poll_and_drop(watch.next(), 3).await;
    let (first, second) = tokio::join!(a.update("a3"), b.update("b3"));
    first.and(second).unwrap();
    seen(world, &mut watch, &["a3", "b3"]).await;
    for i in 0..8 {
        poll_and_drop(a.update(format!("dropped {i}")), i % 4).await;
    }
    let (earlier, later) = tokio::join!(a.update("second to last"), a.update("last"));
    earlier.and(later).unwrap();
    shows(&group[1], &["last", "b3"]).await;
    a.leave().await;
    seen(world, &mut watch, &["b3"]).await;
    b.leave().await;
    seen(world, &mut watch, &[]).await;
}

pub async fn removed_member_is_registered_again(world: &dyn World) {
    let two = contenders(world, 2).await;
    let group = everywhere(&two);
    let mut membership = joined(world, &group[0], "first").await;
    membership.update("second").await.unwrap();
    let other = joined(world, &group[1], "other").await;
    let mut watch = group[1].watch();
    seen(world, &mut watch, &["second", "other"]).await;
    let id = membership.id().unwrap();
    let entry = world.entries(&queue(&group[0])).await.remove(0).entry;
    world.remove(&entry).await;
    let again = registered_again(world, &mut membership, &id).await;
    seen(world, &mut watch, &["other", "second"]).await;
    let members = group[1].members().await.unwrap();
    assert_eq!(members[1].id, again);
    membership.update("third").await.unwrap();
    shows(&group[1], &["other", "third"]).await;
    assert_eq!(in_time(world, "an answer", membership.leave()).await, Release::Released);
    drop(other);
    has_length(world, &group[0], 0).await;
}

pub async fn ended_session_is_replaced_and_the_value_kept(world: &dyn World) {
    let two = contenders(world, 2).await;
    let group = everywhere(&two);
    let mut membership = joined(world, &group[0], "first").await;
    membership.update("second").await.unwrap();
    let mut watch = group[1].watch();
    seen(world, &mut watch, &["second"]).await;
    let (id, session) = (membership.id().unwrap(), two[0].client.session_id().await.unwrap());
    world.expire(&session).await;
    registered_again(world, &mut membership, &id).await;
    seen(world, &mut watch, &["second"]).await;
    let member = group[1].members().await.unwrap().remove(0);
    assert_ne!(member.session, session);
    assert!(membership.trouble().is_none());
    membership.leave().await;
    has_length(world, &group[0], 0).await;
}

pub async fn long_silence_ends_the_registration_and_what_was_wanted_meanwhile_is_shown(world: &dyn World) {
    let two = contenders(world, 2).await;
    let group = everywhere(&two);
    let mut membership = joined(world, &group[0], "before").await;
    let id = membership.id().unwrap();
    two[0].link.hold().await;
    poll_and_drop(membership.update("meanwhile"), 2).await;
    has_length(world, &group[1], 0).await;
    assert!(membership.id().is_none(), "known before the store has removed it");
    two[0].link.resume().await;
    registered_again(world, &mut membership, &id).await;
    let mut watch = group[1].watch();
    seen(world, &mut watch, &["meanwhile"]).await;
    in_time(world, "it is shown", membership.update("after")).await.unwrap();
    shows(&group[1], &["after"]).await;
}

pub async fn cut_keeps_the_members_and_those_who_follow(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let group = everywhere(&two);
        let membership = joined(world, &group[0], "a").await;
        let id = membership.id();
        let mut watch = group[1].watch();
        seen(world, &mut watch, &["a"]).await;
        for round in ["b", "c"] {
            for contender in &two {
                contender.link.cut(how).await;
            }
            in_time(world, "it is shown", membership.update(round)).await.unwrap();
            seen(world, &mut watch, &[round]).await;
        }
        assert_eq!(membership.id(), id, "{how:?}");
        for contender in &two {
            contender.link.cut(how).await;
        }
        assert_eq!(in_time(world, "an answer", membership.leave()).await, Release::Released);
        seen(world, &mut watch, &[]).await;
    }
}

pub async fn lost_replies_change_nothing(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let group = everywhere(&two);
        let mut watch = group[1].watch();
        seen(world, &mut watch, &[]).await;
        two[0].link.lose_next_reply(group[0].name(), how).await;
        let membership = joined(world, &group[0], "a").await;
        has_length(world, &group[0], 1).await;
        // Of the value, of the note to those who follow.
        for (value, lost) in [("b-value", "b-value"), ("c-value", "\"recipe\":\"group\"")] {
            two[0].link.lose_next_reply(lost, how).await;
            in_time(world, "it is shown", membership.update(value)).await.unwrap();
            seen(world, &mut watch, &[value]).await;
        }
        two[0].link.lose_next_reply(group[0].name(), how).await;
        assert_eq!(in_time(world, "an answer", membership.leave()).await, Release::Released, "{how:?}");
        has_length(world, &group[0], 0).await;
    }
}

pub async fn joining_and_withdrawing_at_any_moment_leaves_nothing(world: &dyn World) {
    let two = contenders(world, 2).await;
    let group = everywhere(&two);
    for polls in 0..4 {
        poll_and_drop(group[0].join("withdrawn"), polls).await;
    }
    for step in 0..30 {
        let _ = tokio::time::timeout(Duration::from_micros(150 * step), group[0].join("withdrawn")).await;
    }
    has_length(world, &group[1], 0).await;
    for step in 0..6 {
        let joining = tokio::spawn({
            let group = group[0].clone();
            async move { group.join("silent").await }
        });
        tokio::time::sleep(Duration::from_micros(400 * step)).await;
        two[0].link.hold().await;
        joining.abort();
        tokio::time::sleep(Duration::from_millis(5)).await;
        two[0].link.resume().await;
    }
    has_length(world, &group[1], 0).await;
    // In the middle of being registered again.
    for step in 0..6 {
        let membership = joined(world, &group[0], "withdrawn").await;
        world.remove(&world.entries(&queue(&group[0])).await[0].entry).await;
        tokio::time::sleep(Duration::from_millis(60 * step)).await;
        drop(membership);
        has_length(world, &group[1], 0).await;
    }
    // An entry that came after the last look would stay.
    tokio::time::sleep(SECOND).await;
    has_length(world, &group[1], 0).await;
    joined(world, &group[0], "stays").await.leave().await;
}

pub async fn leaves_for_good_with_its_client(world: &dyn World) {
    let two = contenders(world, 2).await;
    let group = everywhere(&two);
    let mut membership = joined(world, &group[0], "a").await;
    two[0].client.close().await;
    assert!(membership.id().is_none());
    let ended = async { while membership.changed().await.is_ok() {} };
    in_time(world, "it has ended", ended).await;
    let error = in_time(world, "an answer", membership.update("b")).await.unwrap_err();
    assert!(matches!(error, Error::Lost { loss: Loss::Closed, .. }), "{error}");
    has_length(world, &group[1], 0).await;
    // It may have left by itself, in the moment before the client was closed.
    let left = in_time(world, "an answer", membership.leave()).await;
    assert!(matches!(left, Release::NotHeld | Release::Released), "{left:?}");
    let again = joined(world, &group[0], "again").await;
    shows(&group[1], &["again"]).await;
    again.leave().await;
}

pub async fn refuses_bad_input_and_leaves_nothing(world: &dyn World) {
    let one = world.contender().await;
    assert!(matches!(one.client.group(""), Err(Error::InvalidName { .. })));
    let group = one.client.group(fresh_name()).unwrap();
    let large = vec![b'x'; 4097];
    for error in
        [group.join(&large).await.unwrap_err(), joined(world, &group, "small").await.update(&large).await.unwrap_err()]
    {
        assert!(matches!(error, Error::ValueTooLarge { size: 4097, limit: 4096, .. }), "{error}");
        assert!(error.to_string().contains(group.name()), "{error}");
    }
    let error = group.join("__REVOKE__me").await.unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    has_length(world, &group, 0).await;

    let is_told =
        |error: &Error| matches!(error, Error::OtherRecipe { .. }) && error.to_string().contains(group.name());
    let election = one.client.election(group.name()).unwrap();
    let leadership = in_time(world, "nobody else leads", election.campaign("x")).await.unwrap();
    for error in [
        in_time(world, "an answer", group.join("x")).await.map(drop).unwrap_err(),
        group.members().await.map(drop).unwrap_err(),
        in_time(world, "an answer", group.watch().next()).await.map(drop).unwrap_err(),
    ] {
        assert!(is_told(&error), "{error}");
    }
    assert_eq!(world.entries(&queue(&group)).await.len(), 1, "nothing of it is left when that is told");
    leadership.resign().await;
    let error = in_time(world, "an answer", group.join("x")).await.unwrap_err();
    assert!(is_told(&error), "the record is the election's: {error}");
    assert_eq!(world.entries(&queue(&group)).await.len(), 0);
}
