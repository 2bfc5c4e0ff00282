# A gift for a birthday or a sad friend.
cast: duo
lesson: [the best gifts come from the heart|a gift does not have to be big|making others happy makes you happy too]

<duo> Soon it was {friend}'s birthday. {Hero} wanted to give {friend.him} something special[, but {hero.he} had no money|].
<duo> It was {friend}'s birthday. "What can I give to {friend.name}?" thought {hero}. 
<duo> One day, {friend} was sick. {Friend.he} had to stay in bed. {Hero} wanted to make {friend.him} happy.
<duo> Today, {friend} was <sad>. {Friend.he} had lost {friend.his} {toy.bare}. {Hero} wanted to make {friend.him} smile.

{Hero} went {place.to} to [think|look for something nice]. {Hero.he} looked {spot} and {spot2}. [But {hero.he} found nothing|There were only stones|{Hero.he} saw {small.a}, but that was not a gift].
{Hero.he} [thought and thought|sat down to think|had no idea]. "[{Friend.name} likes to {hobby2}|It must be something nice|It must come from the heart]," {hero.he} said.
{Hero} asked {guide.first} for help. "[Think of what your friend likes|Give something that you made yourself|The best gift comes from the heart]," said {guide}.

Then {hero.he} had an idea! "I will make {gift.a}!" 
"I know!" said {hero}. "I can make {gift.a}."
So {hero} [started to make|began to make|made] {gift.a}. 

{Hero.he} worked [all day|all morning|until late]. It was not easy. [First it was too small|The first one was no good|Once it almost broke]. But {hero.he} did not stop.
{Hero} [was very careful|took {hero.his} time|used many colors]. {Hero.he} [sang while {hero.he} worked|thought of {friend} all the time|smiled the whole time].

--
[At last|Then], it was done. {Hero} ran to {friend}'s [house|home]. Knock, knock! "Who is there?" asked {friend}. "It is me, {hero.name}!" 
When it was ready, {hero} went to {friend}. "[Close your eyes|I have something for you|Surprise]!" said {hero}.
{Hero} brought it to {friend}. "[This is for you|I made this for you]," {hero.he} said <softly>.

{Friend}'s eyes got [big|wide|bright]. "[It is beautiful!|Is that for me?|I love it!|Nobody ever gave me {gift.a}!]" {friend.he} said.
"[Oh, how nice|Wow|What a surprise]!" said {friend}. "[It is the best gift ever|You made it for me|Thank you, {hero.call}]!" 
{Friend} [looked at it for a long time|began to smile|laughed with joy]. "Thank you," {friend.he} said. "[You are the best friend in the world|I will keep it for ever|Now I am not sad at all]."

{Friend} gave {hero} a big hug. {Hero} was <happy> too.
They ate {food.a} together and {hobby3.past}.
They [laughed|sat together|talked] until [evening|it was dark|the stars came out].

?
<moral>
<moral>
<moral>
It was [a wonderful day|the best day of the year] for both of them.
