"""python3 -m unittest discover -s bench -t bench"""

import unittest

from comparison.numbers import Record, merge, of_records, percentile, ratio, summary


def hold(worker, ticket, requested, granted, releasing, released=None):
    return Record(worker, ticket, requested, granted, releasing, releasing if released is None else released)


class Numbers(unittest.TestCase):
    def test_a_percentile_is_one_of_the_values(self):
        self.assertEqual([percentile(range(100), p) for p in (0, 50, 99)], [0, 50, 99])
        self.assertEqual([percentile([7], p) for p in (0, 50, 99)], [7, 7, 7])

    def test_the_hand_over_runs_from_the_release_to_the_next_grant(self):
        records = [hold(1, 0, 0, 1000, 4000, 9000), hold(2, 1, 0, 6000, 7000)]
        numbers = of_records(records, one_lock=True)
        self.assertEqual((numbers["handover_p50_us"], numbers["acquire_p99_us"], numbers["release_p99_us"]), (2, 6, 5))
        self.assertEqual(numbers["overlaps"], 0)

    def test_a_grant_before_the_holder_lets_go_is_an_overlap(self):
        records = [hold(1, 0, 0, 10, 40), hold(2, 1, 0, 39, 50), hold(1, 2, 45, 50, 60)]
        self.assertEqual(of_records(records, one_lock=True)["overlaps"], 1)
        self.assertNotIn("overlaps", of_records(records, one_lock=False))

    def test_displacement_counts_places_and_not_tickets(self):
        in_order = [hold(w, ticket, 0, at, at + 5) for w, (ticket, at) in enumerate([(3, 10), (8, 20), (20, 30)])]
        self.assertEqual(of_records(in_order, one_lock=True)["displaced_max"], 0)
        last_first = [hold(w, ticket, 0, at, at + 5) for w, (ticket, at) in enumerate([(3, 20), (8, 30), (20, 10)])]
        numbers = of_records(last_first, one_lock=True)
        self.assertEqual((numbers["displaced_max"], numbers["displaced_mean"]), (2, 1.33))

    def test_processes_are_put_on_one_clock(self):
        merged = merge([(1000, [hold(0, 0, 5, 10, 20)]), (900, [hold(0, 0, 5, 110, 112)])])
        self.assertEqual([record.granted for record in merged], [110, 110])
        self.assertEqual([record.ticket for record in merged], [105, 5])
        self.assertEqual(len({record.worker for record in merged}), 2)

    def test_a_ratio_above_one_is_better(self):
        self.assertEqual(ratio(300, 100, higher_is_better=True), 3)
        self.assertEqual(ratio(0.5, 2.0, higher_is_better=False), 4)
        self.assertIsNone(ratio(300, None, higher_is_better=True))
        self.assertEqual(summary([3, 1, 9]), (3, 1, 9))


if __name__ == "__main__":
    unittest.main()
