use super::*;

fn history(letter: char) -> History {
    History::read(letter.to_string().repeat(40).as_bytes()).unwrap()
}

fn standing(letter: char, offset: u64, earlier: Option<(char, u64)>, run: &str) -> Standing {
    let earlier = earlier.map(|(letter, differs_from)| (history(letter), differs_from));
    Standing { history: history(letter), offset, earlier, run: Some(run.to_owned()) }
}

fn master(letter: char, offset: u64, earlier: Option<(char, u64)>, run: &str) -> Look {
    Look::Master { standing: standing(letter, offset, earlier, run) }
}

fn replica(letter: char, offset: u64, earlier: Option<(char, u64)>) -> Look {
    let words = "is a replica".to_owned();
    Look::Other { standing: Some(standing(letter, offset, earlier, "r")), words }
}

fn away() -> Look {
    Look::Away("does not answer".to_owned())
}

fn named(party: usize, run: Option<&str>) -> Sentinels {
    Sentinels::Name { party, run: run.map(str::to_owned) }
}

/// A judge over two parties that follows the first, whose stream is `a`, of which 100 bytes were passed on.
fn settled() -> Judge {
    let mut judge = Judge::new(2, None, None);
    let change = judge.step(&[master('a', 100, None, "one"), replica('a', 90, None)], &Sentinels::None, 5);
    assert_eq!(change, Some(Change::Follows { party: 0, by: By::First, kinship: None }));
    judge.passes(history('a'), Some(100));
    judge
}

fn party(judge: &Judge) -> Option<usize> {
    judge.present().map(|present| present.party)
}

#[test]
fn the_first_master_is_taken_only_if_every_other_party_answers_as_its_replica() {
    let only = |others: &[Look]| {
        let mut looks = vec![master('a', 100, None, "one")];
        looks.extend_from_slice(others);
        let mut judge = Judge::new(looks.len(), None, None);
        judge.step(&looks, &Sentinels::None, 5);
        (party(&judge), judge.doubts().to_vec())
    };
    assert_eq!(only(&[]).0, Some(0), "there is no other");
    assert_eq!(only(&[replica('a', 90, None), replica('a', 0, None)]).0, Some(0));
    for other in [
        replica('b', 90, None),
        away(),
        master('b', 0, None, "two"),
        Look::Other { standing: None, words: String::new() },
    ] {
        let (party, doubts) = only(&[replica('a', 90, None), other.clone()]);
        assert_eq!((party, &doubts[0]), (None, &Some(Doubt::Unproven)), "{other:?}");
    }
    assert_eq!(only(&[Look::NotYet]), (None, vec![None, None]), "nothing is said before all were asked");
}

#[test]
fn a_redis_of_which_nothing_was_passed_on_counts_by_whom_it_follows_once_it_is_a_replica() {
    let mut judge = Judge::new(1, None, None);
    judge.step(&[master('b', 0, None, "1")], &Sentinels::None, 1);
    assert_eq!(party(&judge), Some(0));
    // It was blank, and takes the data of a master elsewhere. Then it is promoted.
    judge.step(&[replica('a', 500, None)], &Sentinels::None, 2);
    assert_eq!((party(&judge), judge.followed().unwrap().history), (None, history('a')));
    // One that comes again without that data is not the first one.
    let mut other = judge.clone();
    other.step(&[master('x', 0, None, "2")], &Sentinels::None, 3);
    assert_eq!((party(&other), &other.doubts()[0]), (None, &Some(Doubt::Stranger)));
    let change = judge.step(&[master('c', 700, Some(('a', 700)), "1")], &Sentinels::None, 3);
    let kinship = Some(Kinship::Successor);
    assert_eq!(change, Some(Change::Follows { party: 0, by: By::Lineage, kinship }));
    // What somebody has got of it stands, even if it is a snapshot before the first byte of a stream.
    judge.passes(history('c'), Some(0));
    judge.step(&[replica('d', 500, None)], &Sentinels::None, 4);
    judge.step(&[master('e', 700, Some(('d', 700)), "1")], &Sentinels::None, 5);
    assert_eq!((party(&judge), &judge.doubts()[0]), (None, &Some(Doubt::Restarted)));
}

#[test]
fn a_successor_is_followed_once_the_one_before_is_no_master() {
    for before in [replica('b', 120, Some(('a', 101))), away()] {
        let mut judge = settled();
        let looks = [before, master('b', 120, Some(('a', 101)), "two")];
        let change = judge.step(&looks, &Sentinels::None, 9);
        let kinship = Some(Kinship::Successor);
        assert_eq!(change, Some(Change::Follows { party: 1, by: By::Lineage, kinship }));
        assert_eq!(judge.present(), Some(Present { party: 1, by: By::Lineage, since: 9 }));
        assert_eq!(judge.followed().unwrap().passed, Some(120), "all that it has may be passed on by now");
        assert_eq!(judge.step(&looks, &Sentinels::None, 10), None, "once");
    }
}

#[test]
fn the_present_master_is_kept_while_it_lives_and_a_second_one_is_told() {
    let mut judge = settled();
    let looks = [master('a', 130, None, "one"), master('b', 120, Some(('a', 101)), "two")];
    assert_eq!(judge.step(&looks, &Sentinels::None, 9), None);
    assert_eq!((party(&judge), judge.doubts()), (Some(0), &[None, Some(Doubt::Rival)][..]));
    let looks = [away(), replica('a', 90, None)];
    assert_eq!(judge.step(&looks, &Sentinels::None, 9), None, "nobody else has it");
    assert_eq!(party(&judge), Some(0));
}

#[test]
fn a_blank_redis_at_the_masters_address_is_not_followed() {
    let mut judge = settled();
    let looks = [master('x', 0, None, "three"), replica('a', 100, None)];
    assert_eq!(
        judge.step(&looks, &Sentinels::None, 9),
        Some(Change::Lost { party: 0, why: Doubt::Restarted })
    );
    assert_eq!(judge.step(&looks, &Sentinels::None, 9), None, "it is told once");
    assert_eq!(judge.doubts()[0], Some(Doubt::Restarted));
    // The other one is promoted.
    let looks = [master('x', 0, None, "three"), master('b', 100, Some(('a', 101)), "two")];
    judge.step(&looks, &Sentinels::None, 9);
    assert_eq!((party(&judge), &judge.doubts()[0]), (Some(1), &Some(Doubt::Rival)));
}

#[test]
fn who_lacks_bytes_that_were_passed_on_needs_a_persons_word() {
    let mut judge = settled();
    let looks = [away(), master('b', 120, Some(('a', 91)), "two")];
    assert_eq!(judge.step(&looks, &Sentinels::None, 9), None);
    assert_eq!(
        (party(&judge), &judge.doubts()[1]),
        (Some(0), &Some(Doubt::Behind(10))),
        "the first may come back"
    );
    let looks = [replica('b', 120, None), looks[1].clone()];
    judge.step(&looks, &Sentinels::None, 9);
    assert_eq!((party(&judge), &judge.doubts()[1]), (None, &Some(Doubt::Behind(10))));
    let change = judge.order(1, &looks, &Sentinels::None, 11).unwrap();
    assert_eq!(change, Change::Follows { party: 1, by: By::Person, kinship: Some(Kinship::Behind(10)) });
    assert_eq!(judge.followed().unwrap().passed, Some(120), "of its own stream");
    assert_eq!(judge.step(&looks, &Sentinels::None, 12), None);
    assert_eq!(judge.present(), Some(Present { party: 1, by: By::Person, since: 11 }));
}

#[test]
fn two_that_qualify_are_left_to_a_person() {
    let mut judge = Judge::new(3, settled().followed().cloned(), None);
    let successor = |letter, run| master(letter, 120, Some(('a', 101)), run);
    let looks = [away(), successor('b', "two"), successor('c', "three")];
    assert_eq!(judge.step(&looks, &Sentinels::None, 9), None);
    assert_eq!(judge.doubts()[1..], [Some(Doubt::Ambiguous), Some(Doubt::Ambiguous)]);
    assert!(judge.order(2, &looks, &Sentinels::None, 9).is_ok());
    assert_eq!(party(&judge), Some(2));
}

#[test]
fn nobody_is_followed_by_a_persons_word_who_is_no_master() {
    let mut judge = settled();
    let looks = [master('a', 130, None, "one"), replica('a', 90, None)];
    assert_eq!(judge.order(1, &looks, &Sentinels::None, 9), Err(Doubt::NoMaster("is a replica".to_owned())));
    let looks = [looks[0].clone(), away()];
    assert!(matches!(judge.order(1, &looks, &Sentinels::None, 9), Err(Doubt::Away(_))));
    let looks = [looks[0].clone(), master('b', 0, None, "two")];
    assert_eq!(judge.order(1, &looks, &named(0, None), 9), Err(Doubt::NotNamed), "they would take it back");
    assert_eq!(party(&judge), Some(0));
}

#[test]
fn whom_the_sentinels_name_is_followed_once_it_says_so_itself() {
    let mut judge = settled();
    let old = || master('a', 130, None, "one");
    assert_eq!(judge.step(&[old(), replica('a', 90, None)], &named(1, None), 9), None);
    assert_eq!(party(&judge), Some(0), "it is no master yet");
    // It lacks ten bytes, and the old one still says that it is the master.
    let looks = [old(), master('b', 120, Some(('a', 91)), "two")];
    let kinship = Some(Kinship::Behind(40));
    assert_eq!(
        judge.step(&looks, &named(1, Some("two")), 9),
        Some(Change::Follows { party: 1, by: By::Sentinel, kinship })
    );
    assert_eq!(judge.step(&looks, &named(1, None), 9), None);
    // A Sentinel that is late names the old one for a while; it is one of a majority that does not.
    assert_eq!(judge.step(&looks, &Sentinels::Undecided, 9), None);
    assert_eq!((party(&judge), &judge.doubts()[0]), (Some(1), &Some(Doubt::Rival)));
}

#[test]
fn the_word_for_an_address_is_none_for_another_process_there() {
    let mut judge = settled();
    let looks = [master('x', 0, None, "three"), replica('a', 100, None)];
    assert_eq!(
        judge.step(&looks, &named(0, Some("one")), 9),
        Some(Change::Lost { party: 0, why: Doubt::Restarted })
    );
    assert_eq!(judge.step(&looks, &named(0, None), 9), None);
    assert_eq!(party(&judge), None);
    let kinship = Some(Kinship::Stranger);
    let change = judge.step(&looks, &named(0, Some("three")), 9);
    assert_eq!(change, Some(Change::Follows { party: 0, by: By::Sentinel, kinship }), "they have seen it");
}

#[test]
fn without_a_majority_that_agrees_nothing_moves_and_without_one_that_answers_histories_decide() {
    let looks = [replica('b', 120, None), master('b', 120, Some(('a', 101)), "two")];
    let mut judge = settled();
    assert!(matches!(judge.step(&looks, &Sentinels::Undecided, 9), Some(Change::Lost { party: 0, .. })));
    assert_eq!((party(&judge), &judge.doubts()[1]), (None, &Some(Doubt::NotNamed)));
    judge.step(&looks, &Sentinels::Silent, 9);
    assert_eq!(party(&judge), Some(1));
}

#[test]
fn a_process_that_was_no_master_in_between_is_not_known_by_its_name_any_more() {
    // It followed another one, and has given up every trace of that since.
    let renamed = || [master('n', 130, None, "one"), replica('a', 90, None)];
    for between in [replica('x', 5, None), away(), master('y', 7, Some(('x', 5)), "one")] {
        let mut judge = settled();
        judge.step(&[between.clone(), replica('a', 90, None)], &Sentinels::None, 8);
        judge.step(&renamed(), &Sentinels::None, 9);
        assert_eq!(party(&judge), None, "{between:?}");
    }
    let judge = settled();
    let mut restarted = Judge::new(2, judge.followed().cloned(), judge.present());
    restarted.step(&renamed(), &Sentinels::None, 9);
    assert_eq!(party(&restarted), None, "nobody has seen what it did meanwhile");
}

#[test]
fn a_master_that_renames_its_stream_is_still_the_master() {
    let mut judge = settled();
    let looks = [master('n', 130, None, "one"), replica('a', 90, None)];
    assert_eq!(judge.step(&looks, &Sentinels::None, 9), None);
    assert_eq!((party(&judge), judge.followed().unwrap().history), (Some(0), history('n')));
    assert_eq!(judge.present().unwrap().since, 5);
}

#[test]
fn the_stream_that_goes_on_elsewhere_is_what_a_successor_must_have() {
    let mut judge = settled();
    // The whole site follows another one, which has taken over from here without a loss.
    let looks = [replica('b', 120, Some(('a', 101))), replica('b', 110, None)];
    assert_eq!(
        judge.step(&looks, &Sentinels::None, 9),
        Some(Change::Lost { party: 0, why: Doubt::NoMaster("is a replica".to_owned()) })
    );
    assert_eq!(judge.followed().unwrap().history, history('b'));
    // One that was behind in that stream does not have all that was passed on from here.
    let looks = [replica('b', 120, Some(('a', 101))), master('d', 60, Some(('b', 51)), "two")];
    judge.step(&looks, &Sentinels::None, 9);
    assert_eq!((party(&judge), &judge.doubts()[1]), (None, &Some(Doubt::Behind(50))));
    let looks = [master('c', 150, Some(('b', 141)), "one"), replica('c', 150, None)];
    judge.step(&looks, &Sentinels::None, 9);
    assert_eq!(party(&judge), Some(0), "it is promoted again");
}

#[test]
fn a_stream_that_was_renamed_is_told_to_other_sites_with_its_earlier_name() {
    let (mut here, mut there) = (settled(), settled());
    let renamed = standing('n', 130, None, "one");
    here.step(&[Look::Master { standing: renamed.clone() }, away()], &Sentinels::None, 9);
    let told = here.told(&renamed);
    assert_eq!(told.earlier, Some((history('a'), 131)));
    assert_eq!(here.told(&standing('x', 1, None, "two")).earlier, None, "another Redis");
    // The other site does not know the process.
    let offer = |standing: &Standing| Look::Master { standing: Standing { run: None, ..standing.clone() } };
    there.step(&[offer(&told), away()], &Sentinels::None, 9);
    assert_eq!((party(&there), there.followed().unwrap().history), (Some(0), history('n')));
    let mut untold = settled();
    untold.step(&[offer(&renamed), away()], &Sentinels::None, 9);
    assert_eq!(party(&untold), None);
    // Once another one has taken over, that is told by Redis itself.
    let taken = standing('b', 140, Some(('n', 131)), "two");
    here.step(&[away(), Look::Master { standing: taken.clone() }], &Sentinels::None, 10);
    assert_eq!(here.told(&taken), taken);
}

#[test]
fn another_master_at_the_party_that_is_followed_needs_a_proof_as_one_elsewhere_does() {
    for (there, stays) in [
        (master('a', 130, None, "-"), true),
        (master('b', 120, Some(('a', 101)), "-"), true),
        (master('b', 120, Some(('a', 91)), "-"), false),
        (master('z', 500, None, "-"), false),
    ] {
        let mut judge = settled();
        judge.step(&[there.clone(), away()], &Sentinels::None, 9);
        assert_eq!(party(&judge).is_some(), stays, "{there:?}");
    }
}

#[test]
fn after_a_restart_what_was_followed_counts_and_what_was_passed_on_may_be_unknown() {
    let judge = settled();
    let known = Followed { passed: None, ..judge.followed().unwrap().clone() };
    let again = || Judge::new(2, Some(known.clone()), judge.present());
    let looks = [away(), master('b', 120, Some(('a', 101)), "two")];
    let mut restarted = again();
    restarted.step(&looks, &Sentinels::None, 9);
    assert_eq!(party(&restarted), Some(0), "it may come back");
    let mut restarted = again();
    restarted.step(&[replica('b', 120, None), looks[1].clone()], &Sentinels::None, 9);
    assert_eq!((party(&restarted), &restarted.doubts()[1]), (None, &Some(Doubt::Uncertain)));
    // All that was passed on came from the stream that is seen alive.
    let mut restarted = again();
    restarted.step(&[master('a', 104, None, "one"), replica('a', 104, None)], &Sentinels::None, 9);
    assert_eq!(restarted.followed().unwrap().passed, Some(104));
    let looks = [replica('b', 120, None), master('b', 120, Some(('a', 105)), "two")];
    restarted.step(&looks, &Sentinels::None, 9);
    assert_eq!(party(&restarted), Some(1));
}

#[test]
fn who_takes_a_partys_place_inherits_nothing() {
    let mut judge = settled();
    judge.replace(0);
    assert_eq!(party(&judge), None);
    judge.step(&[master('x', 0, None, "three"), replica('a', 90, None)], &Sentinels::None, 9);
    assert_eq!(judge.doubts()[0], Some(Doubt::Stranger), "not one that was started again");
}
