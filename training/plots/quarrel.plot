# Two friends quarrel and make up.
cast: duo
lesson: [a friend is more important than being right|it is brave to say sorry|saying sorry can mend a friendship|angry words hurt]

<duo-here> They [found|saw] {toy.a} {spot}. "It is mine!" said {hero}. "No, it is mine!" said {friend}. +toy
<duo-here> They played with {toy.a}. {Hero} wanted to go first. {Friend} wanted to go first too. +toy
<duo> <oneday>, {friend} broke {hero}'s {toy.bare}. [It was an accident|{Friend.he} did not mean to do it]. But {hero} was angry. +broke
<duo-here> They wanted to play a game. "Let us {hobby}," said {hero}. "No, let us {hobby2}," said {friend}. +game

{Hero} pulled on one side. {Friend} pulled on the other side. [Crack|Snap|Rip]! The {toy.bare} broke. @toy
They both pulled at the {toy.bare}. They pulled [harder and harder|with all their might]. Then it [broke|fell into the mud|flew into the water]. @toy
"You always go first!" said {friend}. "That is not true!" said {hero}. @game

"[I don't want to play with you anymore|You are not my friend anymore|Go away|This is your fault]!" shouted {hero}. {Friend} [ran home|went away|began to cry].
{Hero} was very angry. {Hero.he} [stamped {hero.his} foot|turned away|went home without a word]. {Friend} was <sad>.
"[You are mean|You never listen to me]!" said {friend}. They both went home.

--
At home, {hero} was [alone|quiet]. {Hero.he} tried to {hobby3}, but it was no fun without {friend}. 
[Later|At home|In the evening], {hero} told {grown} about it. "[Do you miss {friend.name}|What would a good friend do|Is that more important than a friend]?" asked {grown}. {Hero} thought for a long time.
The next day, {hero} saw {friend} {spot2}. {Friend.he} looked <sad>. {Hero} felt sorry.
That night, {hero} could not sleep. {Hero.he} thought of {friend}. {Hero.he} thought of all the fun they had together.

So {hero} went to {friend}. "I am sorry," {hero.he} said. "[I was angry|I did not mean it|I said bad things]." "[I am sorry too|Me too|I missed you]," said {friend}.
[In the morning|Then], {hero} made {gift.a} and took it to {friend}. "This is for you," {hero.he} said. "I am sorry."
{Hero} [knocked at {friend}'s door|went to look for {friend}|took a deep breath]. "[Can we be friends again|Will you forgive me|Can you forgive me]?" asked {hero}. "Yes," said {friend}. "I am sorry too." 

They hugged and [laughed|were happy again|smiled].
{Friend} smiled. "[Let us play together|Let us take turns|You can go first today]," {friend.he} said. 
They [fixed the {toy.bare} together|shared {food.a}|took turns]. [Now they were happy again|It was more fun than before]. @toy

?
<moral>
<moral>
<moral>
And they never fought about {toy.a} again. @toy
They were best friends again.
